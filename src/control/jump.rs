//! Where in a stream its service's clock was ahead.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{Row, number, read_number, read_text, text};
use crate::source::Sequence;

/// From this record of a shard on, records count as created this much earlier than they say.
///
/// It is durable before a record is judged by it: whoever reads the record again must give it the same
/// version, even if the record's time has come by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    pub from: Sequence,
    /// A record with an earlier time was created by a clock that is right again.
    pub since_millis: u64,
    /// 0 from where the clock is right.
    pub ahead_millis: u64,
    /// How much later than they were made its records may count: the first one may have been made long before
    /// it was read.
    pub late_millis: u64,
}

pub(super) const JUMPS: &str = "jumps";

pub(super) fn write(jump: &Jump) -> AttributeValue {
    AttributeValue::M(HashMap::from([
        ("from".to_owned(), text(jump.from.as_str())),
        ("sinceMillis".to_owned(), number(jump.since_millis)),
        ("aheadMillis".to_owned(), number(jump.ahead_millis)),
        ("lateMillis".to_owned(), number(jump.late_millis)),
    ]))
}

/// The jumps in a lease's row.
pub(super) fn read(row: &Row) -> Vec<Jump> {
    let jumps = row.get(JUMPS).and_then(|jumps| jumps.as_l().ok());
    let read = |jump: &AttributeValue| {
        let fields = jump.as_m().ok()?;
        Some(Jump {
            from: Sequence::new(read_text(fields, "from")?),
            since_millis: read_number(fields, "sinceMillis")?,
            ahead_millis: read_number(fields, "aheadMillis")?,
            late_millis: read_number(fields, "lateMillis").unwrap_or_default(),
        })
    };
    jumps.into_iter().flatten().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_read_back() {
        let jump = |from: &str, since_millis, ahead_millis, late_millis| Jump {
            from: Sequence::new(from),
            since_millis,
            ahead_millis,
            late_millis,
        };
        let jumps = vec![jump("17", 5_000, 3_000, 70), jump("20", 0, 0, 0)];
        let row = Row::from([(JUMPS.to_owned(), AttributeValue::L(jumps.iter().map(write).collect()))]);
        assert_eq!(read(&row), jumps);
        assert_eq!(read(&Row::new()), []);
    }
}
