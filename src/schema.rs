//! What DescribeTable says about a replica: its keys and its stream.

use std::collections::BTreeMap;
use std::fmt;

use aws_sdk_dynamodb::types::{KeyType, StreamViewType, TableDescription, TableStatus};

use crate::fault::Fault;
use crate::feed::View;
use crate::region::Region;

/// The key attributes of a table, in order, with their types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySchema(Vec<KeyAttribute>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyAttribute {
    name: String,
    kind: KeyType,
    scalar: String,
}

impl fmt::Display for KeySchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, KeyAttribute { name, kind, scalar }) in self.0.iter().enumerate() {
            write!(f, "{}{name} ({kind} key, {scalar})", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl KeySchema {
    /// The names of the key attributes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|attribute| attribute.name.as_str())
    }

    /// A key that no application has, as DynamoDB JSON.
    pub fn sample(&self) -> BTreeMap<&str, serde_json::Value> {
        let sample = |scalar: &str| match scalar {
            "N" => serde_json::json!({ "N": "0" }),
            "B" => serde_json::json!({ "B": "dHJhZGV3aW5kLXRlc3Q=" }),
            _ => serde_json::json!({ "S": "tradewind-test" }),
        };
        self.0.iter().map(|key| (key.name.as_str(), sample(&key.scalar))).collect()
    }
}

/// The stream of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamState {
    Off,
    /// On, with a view type that lacks an image.
    Partial {
        arn: String,
        view: View,
    },
    /// On, with both images.
    On {
        arn: String,
    },
}

/// One replica, as its region describes it.
#[derive(Clone, Debug)]
pub struct Described {
    pub key_schema: KeySchema,
    pub stream: StreamState,
    pub active: bool,
    /// Why only AWS may replicate it: it is a replica of a managed global table.
    pub managed: Option<String>,
    /// The service's whole description.
    pub table: TableDescription,
}

/// Describes a table.
pub async fn describe(region: &Region, table: &str) -> Result<Described, Fault> {
    let answer = region.tables.describe_table().table_name(table).send().await?;
    Ok(Described::from(answer.table.unwrap_or_else(|| TableDescription::builder().build())))
}

impl From<TableDescription> for Described {
    fn from(table: TableDescription) -> Self {
        let scalar = |name: &str| {
            let definition = table.attribute_definitions().iter().find(|d| d.attribute_name() == name);
            definition.map(|d| d.attribute_type().to_string()).unwrap_or_default()
        };
        let mut attributes: Vec<_> = table
            .key_schema()
            .iter()
            .map(|element| KeyAttribute {
                name: element.attribute_name().to_owned(),
                kind: element.key_type().clone(),
                scalar: scalar(element.attribute_name()),
            })
            .collect();
        attributes.sort_by_key(|attribute| attribute.kind != KeyType::Hash);
        let stream = table.stream_specification().filter(|stream| stream.stream_enabled());
        let stream = match (stream.and_then(|stream| stream.stream_view_type()), table.latest_stream_arn()) {
            (Some(StreamViewType::NewAndOldImages), Some(arn)) => StreamState::On { arn: arn.to_owned() },
            (Some(view), Some(arn)) => {
                let view = match view {
                    StreamViewType::NewImage => View::NewImage,
                    StreamViewType::OldImage => View::OldImage,
                    _ => View::KeysOnly,
                };
                StreamState::Partial { arn: arn.to_owned(), view }
            }
            _ => StreamState::Off,
        };
        let managed = managed(&table);
        Self {
            managed,
            key_schema: KeySchema(attributes),
            stream,
            active: table.table_status() == Some(&TableStatus::Active),
            table,
        }
    }
}

/// Writes that AWS replicates to a table appear in its stream as an application's, and AWS replicates
/// Tradewind's writes once more.
fn managed(table: &TableDescription) -> Option<String> {
    let replicas: Vec<&str> =
        table.replicas().iter().filter_map(|replica| replica.region_name.as_deref()).collect();
    let of = match (replicas.is_empty(), table.global_table_version()) {
        (false, _) => format!("with replicas in {}", replicas.join(", ")),
        (true, Some(version)) => format!("of version {version}"),
        (true, None) => return None,
    };
    Some(format!(
        "it is a managed global table ({of}): DynamoDB replicates it by itself, and each would mistake the \
         other's writes for an application's. Remove its other replicas in DynamoDB, or take the table out of \
         regions.toml"
    ))
}
