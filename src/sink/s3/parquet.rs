//! Events as a table of Parquet: what is known of every event, and the columns that a feed names.

use std::sync::Arc;

use parquet::basic::{
    Compression as Codec, GzipLevel, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel,
};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;
use serde_json::Value;

use crate::config::{Column, ColumnKind, Compression, Rows, Table};
use crate::sink::Offer;

/// A row group ends once its events have so many bytes: until then its cells are in memory.
const GROUP_BYTES: usize = 32 << 20;

/// An event that becomes a row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) text: String,
    pub(super) sequence: String,
    pub(super) created_millis: u64,
}

impl Row {
    pub(super) fn of(offer: &Offer<'_>) -> Self {
        let Offer { text, sequence, created_millis } = *offer;
        Self { text: text.to_owned(), sequence: sequence.to_owned(), created_millis }
    }
}

/// A table with one row for each event.
pub(super) fn table(table: &Table, compression: Compression, rows: &[Row]) -> Result<Vec<u8>, ParquetError> {
    let codec = match compression {
        Compression::None => Codec::UNCOMPRESSED,
        Compression::Gzip => Codec::GZIP(GzipLevel::default()),
        Compression::Zstd => Codec::ZSTD(ZstdLevel::default()),
    };
    let fields = fields(table);
    let types =
        fields.iter().map(|field| Ok(Arc::new(field.kind()?))).collect::<Result<_, ParquetError>>()?;
    let schema = Type::group_type_builder("event").with_fields(types).build()?;
    let properties = WriterProperties::builder().set_compression(codec).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?;
    let mut rest = rows;
    while !rest.is_empty() {
        let mut bytes = 0;
        let count = rest.iter().take_while(|row| {
            let begun = bytes;
            bytes += row.text.len();
            begun < GROUP_BYTES
        });
        let (rows, more) = rest.split_at(count.count());
        rest = more;
        let mut columns: Vec<Cells> = fields.iter().map(|field| Cells::of(&field.source)).collect();
        for row in rows {
            let event =
                serde_json::from_str(&row.text).map_err(|error| ParquetError::General(error.to_string()))?;
            for (field, cells) in fields.iter().zip(&mut columns) {
                cells.push(field.source.cell(row, &event));
            }
        }
        let mut group = writer.next_row_group()?;
        for cells in columns {
            if let Some(column) = group.next_column()? {
                cells.write(column)?;
            }
        }
        group.close()?;
    }
    writer.into_inner()
}

/// A column of a table.
struct Field<'a> {
    name: &'a str,
    source: Source<'a>,
}

/// Where a column's cells come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// When an event was created.
    Created,
    /// The sequence number of its record.
    Sequence,
    /// Text of the event.
    Text(&'a str),
    /// Part of the event, as JSON; all of it if the path is empty.
    Json(&'a str),
    /// An attribute of the item that it is about.
    Attribute(&'a Column),
    /// A field of what the feed's program has made of it.
    Own(&'a Column),
}

const CREATED: Field<'_> = Field { name: "created_at", source: Source::Created };
const SEQUENCE: Field<'_> = Field { name: "sequence_number", source: Source::Sequence };

/// What each event has, under the names of [`Rows::columns`].
const EVENT: [Field<'_>; 9] = [
    Field { name: "event_id", source: Source::Text("/eventID") },
    Field { name: "event_name", source: Source::Text("/eventName") },
    Field { name: "origin", source: Source::Text("/tradewind/origin") },
    Field { name: "version", source: Source::Text("/tradewind/version") },
    Field { name: "base", source: Source::Text("/tradewind/base") },
    Field { name: "principal", source: Source::Text("/userIdentity/principalId") },
    Field { name: "keys", source: Source::Json("/dynamodb/Keys") },
    Field { name: "old_image", source: Source::Json("/dynamodb/OldImage") },
    Field { name: "new_image", source: Source::Json("/dynamodb/NewImage") },
];
const VALUE: [Field<'_>; 1] = [Field { name: "value", source: Source::Json("") }];

fn fields(Table { rows, columns }: &Table) -> Vec<Field<'_>> {
    let (fixed, source): (Vec<Field<'_>>, fn(&Column) -> Source<'_>) = match rows {
        Rows::Events => (EVENT.into(), |column| Source::Attribute(column)),
        Rows::Values => (VALUE.into(), |column| Source::Own(column)),
    };
    let own = columns.iter().map(|column| Field { name: &column.name, source: source(column) });
    [CREATED, SEQUENCE].into_iter().chain(fixed).chain(own).collect()
}

impl Source<'_> {
    fn kind(&self) -> ColumnKind {
        match self {
            Self::Created => ColumnKind::Long,
            Self::Sequence | Self::Text(_) | Self::Json(_) => ColumnKind::String,
            Self::Attribute(column) | Self::Own(column) => column.kind,
        }
    }

    /// What an event has there, if anything.
    fn cell(&self, row: &Row, event: &Value) -> Option<Scalar> {
        match self {
            Self::Created => Some(Scalar::Number(row.created_millis.to_string())),
            Self::Sequence => Some(Scalar::Text(row.sequence.clone())),
            Self::Text(path) => event.pointer(path)?.as_str().map(|text| Scalar::Text(text.to_owned())),
            Self::Json(path) => event.pointer(path).map(|part| Scalar::Text(part.to_string())),
            Self::Attribute(column) => Scalar::of_attribute(attribute(event, &column.name)?),
            Self::Own(column) => Scalar::of_json(event.get(&column.name)?),
        }
    }
}

impl Field<'_> {
    fn kind(&self) -> Result<Type, ParquetError> {
        let millis = || LogicalType::timestamp(true, TimeUnit::MILLIS);
        let (physical, logical) = match self.source.kind() {
            ColumnKind::String => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            ColumnKind::Long => (Physical::INT64, matches!(self.source, Source::Created).then(millis)),
            ColumnKind::Double => (Physical::DOUBLE, None),
            ColumnKind::Boolean => (Physical::BOOLEAN, None),
        };
        let kind = Type::primitive_type_builder(self.name, physical);
        kind.with_repetition(Repetition::OPTIONAL).with_logical_type(logical).build()
    }
}

/// The cells of a column: the values of those that have one, and which do.
struct Cells {
    values: Values,
    /// 1 for each cell that has a value, 0 for each that has none.
    levels: Vec<i16>,
}

enum Values {
    Text(Vec<ByteArray>),
    Long(Vec<i64>),
    Double(Vec<f64>),
    Boolean(Vec<bool>),
}

impl Cells {
    fn of(source: &Source<'_>) -> Self {
        let values = match source.kind() {
            ColumnKind::String => Values::Text(Vec::new()),
            ColumnKind::Long => Values::Long(Vec::new()),
            ColumnKind::Double => Values::Double(Vec::new()),
            ColumnKind::Boolean => Values::Boolean(Vec::new()),
        };
        Self { values, levels: Vec::new() }
    }

    /// Adds a cell; an empty one where there is nothing, or something of another type.
    fn push(&mut self, cell: Option<Scalar>) {
        let has = match &mut self.values {
            Values::Text(values) => add(values, cell.map(|cell| cell.text().into_bytes().into())),
            Values::Long(values) => add(values, cell.and_then(|cell| cell.number()?.parse().ok())),
            Values::Double(values) => {
                let number = cell.and_then(|cell| cell.number()?.parse().ok());
                add(values, number.filter(|number: &f64| number.is_finite()))
            }
            Values::Boolean(values) => add(values, cell.and_then(|cell| cell.flag())),
        };
        self.levels.push(i16::from(has));
    }

    fn write(self, mut column: SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let levels = Some(self.levels.as_slice());
        match self.values {
            Values::Text(values) => column.typed::<ByteArrayType>().write_batch(&values, levels, None)?,
            Values::Long(values) => column.typed::<Int64Type>().write_batch(&values, levels, None)?,
            Values::Double(values) => column.typed::<DoubleType>().write_batch(&values, levels, None)?,
            Values::Boolean(values) => column.typed::<BoolType>().write_batch(&values, levels, None)?,
        };
        column.close()
    }
}

/// Adds a value, if there is one; returns whether there is.
fn add<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
    let has = value.is_some();
    values.extend(value);
    has
}

/// An attribute of an event's item: as it is now or, where it is gone or not shown, as it was.
fn attribute<'a>(event: &'a Value, name: &str) -> Option<&'a Value> {
    let body = event.get("dynamodb")?;
    let image = ["NewImage", "OldImage", "Keys"].into_iter().find_map(|image| body.get(image))?;
    image.get(name)
}

/// What fits into one cell.
enum Scalar {
    Text(String),
    Number(String),
    Flag(bool),
}

impl Scalar {
    /// A value of DynamoDB's JSON: lists, maps and sets as that JSON.
    fn of_attribute(value: &Value) -> Option<Self> {
        let (kind, inner) = value.as_object()?.iter().next()?;
        match (kind.as_str(), inner) {
            // Binary is in base64.
            ("S" | "B", Value::String(text)) => Some(Self::Text(text.clone())),
            ("N", Value::String(number)) => Some(Self::Number(number.clone())),
            ("BOOL", Value::Bool(flag)) => Some(Self::Flag(*flag)),
            ("NULL", _) => None,
            _ => Some(Self::Text(value.to_string())),
        }
    }

    fn of_json(value: &Value) -> Option<Self> {
        match value {
            Value::Null => None,
            Value::String(text) => Some(Self::Text(text.clone())),
            Value::Number(number) => Some(Self::Number(number.to_string())),
            Value::Bool(flag) => Some(Self::Flag(*flag)),
            Value::Array(_) | Value::Object(_) => Some(Self::Text(value.to_string())),
        }
    }

    fn text(self) -> String {
        match self {
            Self::Text(text) | Self::Number(text) => text,
            Self::Flag(flag) => flag.to_string(),
        }
    }

    fn number(&self) -> Option<&str> {
        if let Self::Number(number) = self { Some(number) } else { None }
    }

    fn flag(&self) -> Option<bool> {
        if let Self::Flag(flag) = self { Some(*flag) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;

    use parquet::file::reader::{FileReader, SerializedFileReader};
    use serde_json::json;

    use super::*;

    fn row(event: &Value, sequence: &str) -> Row {
        Row { text: event.to_string(), sequence: sequence.to_owned(), created_millis: 1_800_000_000_500 }
    }

    fn column(name: &str, kind: ColumnKind) -> Column {
        Column { name: name.to_owned(), kind }
    }

    /// The cells of a table's rows, as text.
    fn read(written: &[u8]) -> Vec<BTreeMap<String, String>> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(written).expect("a file");
        let reader = SerializedFileReader::new(file).expect("a table");
        let cells = |row: parquet::record::Row| {
            row.get_column_iter().map(|(name, field)| (name.clone(), field.to_string())).collect()
        };
        reader.get_row_iter(None).expect("rows").map(|row| cells(row.expect("a row"))).collect()
    }

    fn with<'a>(cells: &[(&'a str, &'a str)]) -> BTreeMap<String, String> {
        cells.iter().map(|(name, cell)| ((*name).to_owned(), (*cell).to_owned())).collect()
    }

    #[test]
    fn an_event_is_a_row_with_the_columns_that_are_named() {
        let columns = vec![
            column("id", ColumnKind::String),
            column("total", ColumnKind::Double),
            column("count", ColumnKind::Long),
            column("paid", ColumnKind::Boolean),
            column("tags", ColumnKind::String),
        ];
        let table = Table { rows: Rows::Events, columns };
        let inserted = json!({
            "eventID": "1", "eventName": "INSERT", "tradewind": { "origin": "tokyo", "version": "v", "base": null },
            "dynamodb": {
                "Keys": { "id": { "S": "a" } },
                "NewImage": { "id": { "S": "a" }, "total": { "N": "1.5" }, "count": { "N": "-7" }, "paid": { "BOOL": true },
                    "tags": { "SS": ["x"] } },
            },
        });
        let removed = json!({
            "eventID": "2", "eventName": "REMOVE", "userIdentity": { "principalId": "dynamodb.amazonaws.com" },
            "dynamodb": {
                "Keys": { "id": { "S": "b" } },
                "OldImage": { "id": { "S": "b" }, "total": { "S": "much" }, "count": { "N": "1.5" }, "paid": { "NULL": true } },
            },
        });
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let rows = [row(&inserted, "700"), row(&removed, "701")];
            let rows = read(&super::table(&table, compression, &rows).expect("a table"));
            let expected = [
                with(&[
                    ("created_at", "2027-01-15 08:00:00.500 +00:00"),
                    ("sequence_number", "\"700\""),
                    ("event_id", "\"1\""),
                    ("event_name", "\"INSERT\""),
                    ("origin", "\"tokyo\""),
                    ("version", "\"v\""),
                    ("base", "null"),
                    ("principal", "null"),
                    ("keys", "\"{\"id\":{\"S\":\"a\"}}\""),
                    ("old_image", "null"),
                    ("new_image", &format!("\"{}\"", inserted["dynamodb"]["NewImage"])),
                    ("id", "\"a\""),
                    ("total", "1.5"),
                    ("count", "-7"),
                    ("paid", "true"),
                    ("tags", "\"{\"SS\":[\"x\"]}\""),
                ]),
                with(&[
                    ("created_at", "2027-01-15 08:00:00.500 +00:00"),
                    ("sequence_number", "\"701\""),
                    ("event_id", "\"2\""),
                    ("event_name", "\"REMOVE\""),
                    ("origin", "null"),
                    ("version", "null"),
                    ("base", "null"),
                    ("principal", "\"dynamodb.amazonaws.com\""),
                    ("keys", "\"{\"id\":{\"S\":\"b\"}}\""),
                    ("old_image", &format!("\"{}\"", removed["dynamodb"]["OldImage"])),
                    ("new_image", "null"),
                    ("id", "\"b\""),
                    ("total", "null"),
                    ("count", "null"),
                    ("paid", "null"),
                    ("tags", "null"),
                ]),
            ];
            assert_eq!(rows, expected);
        }
    }

    #[test]
    fn what_a_program_yields_is_a_row_too() {
        let table = Table { rows: Rows::Values, columns: vec![column("total", ColumnKind::Double)] };
        let rows = [row(&json!({ "total": 2, "more": [1] }), "1"), row(&json!(null), "2")];
        let rows = read(&super::table(&table, Compression::Zstd, &rows).expect("a table"));
        let created = ("created_at", "2027-01-15 08:00:00.500 +00:00");
        let expected = [
            with(&[
                created,
                ("sequence_number", "\"1\""),
                ("value", "\"{\"more\":[1],\"total\":2}\""),
                ("total", "2.0"),
            ]),
            with(&[created, ("sequence_number", "\"2\""), ("value", "\"null\""), ("total", "null")]),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_long_table_has_several_groups() {
        let table = Table { rows: Rows::Values, columns: Vec::new() };
        let long = json!("x".repeat(GROUP_BYTES / 2));
        let rows = [row(&long, "1"), row(&long, "2"), row(&long, "3")];
        let written = super::table(&table, Compression::Zstd, &rows).expect("a table");
        assert!(written.len() < 100_000, "{} bytes", written.len());
        assert_eq!(read(&written).len(), 3);
    }

    #[test]
    fn no_column_has_the_name_of_one_that_each_table_has() {
        for rows in [Rows::Events, Rows::Values] {
            let table = Table { rows, columns: Vec::new() };
            let names: Vec<&str> = fields(&table).iter().map(|field| field.name).collect();
            assert_eq!(names, rows.columns());
        }
    }
}
