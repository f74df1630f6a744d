//! What the fuzzers run: bytes go in, and invariants are checked whatever they are.
//!
//! `fuzz/` drives these with libFuzzer; the tests below run them on every input in `fuzz/corpus` and on
//! random ones.

#![allow(clippy::expect_used, clippy::missing_panics_doc, reason = "a panic is what a fuzzer looks for")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodbstreams::primitives::DateTime;
use aws_sdk_dynamodbstreams::types::{
    AttributeValue as StreamValue, Record as StreamRecord, StreamRecord as Body,
};

use crate::config::{Config, ConfigError};
use crate::control;
use crate::item_json::{item_json, json_item};
use crate::observe::{Heard, Overview, Report};
use crate::protocol::{
    Action, Fingerprint, Floors, Guard, Hlc, Item, KeyMemory, Nonce, Origin, Record, STAMP, STAMP_MAGIC,
    Verdict, Version, Write,
};
use crate::source::{Change, dynamodb_streams};

/// A configuration: either read, or refused at an existing position.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error @ ConfigError::Invalid(_)) = Config::parse(Path::new("regions.toml"), text) {
        assert!(error.to_string().starts_with("regions.toml:"), "no place: {error}");
    }
}

/// The records of a page, through the conversion and the key memory.
pub fn records(bytes: &[u8]) {
    let mut feed = Feed(bytes);
    let mut memory = KeyMemory::new(feed.origin());
    let mut floors = Floors::default();
    let mut in_place = false;
    for ordinal in 0.. {
        match feed.byte() {
            0 => return,
            1 => floors.raise(&feed.origin(), Hlc::at_millis(feed.millis())),
            2 => _ = memory.forget(&[feed.origin()], &floors, None),
            3 => in_place = !in_place,
            _ => {}
        }
        let Ok(Change { record, .. }) = dynamodb_streams::convert(feed.stream_record()) else { continue };
        judge(&mut memory, ordinal, record, &floors, in_place);
    }
}

/// One record whose image carries these bytes as its stamp.
pub fn stamps(bytes: &[u8]) {
    let mut feed = Feed(bytes);
    let mut memory = KeyMemory::new(feed.origin());
    let old = feed.image();
    let mut new = feed.item(1);
    let text = String::from_utf8_lossy(feed.0).into_owned();
    new.insert(STAMP.to_owned(), AttributeValue::S(text));
    let record = Record { created_millis: 5, key: key(0), old, new: Some(new) };
    judge(&mut memory, 0, record, &Floors::default(), false);
}

/// A row of the control table, whoever wrote it.
pub fn control_rows(bytes: &[u8]) {
    let mut feed = Feed(bytes);
    let mut row = Item::new();
    while feed.byte() != 0 {
        let name = feed.pick(&["to dublin", "to ", "sk", "hlc", "millis", "pk", "to Tokyo"]);
        row.insert(name, feed.checkpoint());
    }
    control::read_any(&row);
}

/// The body of an answer that the SDK can't read; and one that it could, which must give the same result.
pub fn lenient(bytes: &[u8]) {
    let mut memory = KeyMemory::new(Feed(&[]).origin());
    for (record, ordinal) in dynamodb_streams::read_leniently(bytes).into_iter().flatten().zip(0..) {
        if let Ok(Change { record, .. }) = record {
            judge(&mut memory, ordinal, record, &Floors::default(), false);
        }
    }
    let mut feed = Feed(bytes);
    let (key, old, new) = (key(feed.byte()), feed.image(), feed.image());
    let image = |image: &Option<Item>| image.as_ref().map(item_json);
    let body = serde_json::json!({ "Records": [{ "dynamodb": {
        "SequenceNumber": "7",
        "ApproximateCreationDateTime": 5,
        "Keys": item_json(&key),
        "OldImage": image(&old),
        "NewImage": image(&new),
    } }] });
    let read =
        dynamodb_streams::read_leniently(body.to_string().as_bytes()).and_then(|mut records| records.pop());
    let Change { sequence, record, .. } = read.expect("a record").expect("a readable record");
    assert_eq!((sequence.as_str(), record), ("7", Record { created_millis: 5_000, key, old, new }));
}

/// An item as JSON, whoever wrote it; and one of ours, which must survive the round trip.
pub fn items(bytes: &[u8]) {
    let written = serde_json::from_slice(bytes).ok().as_ref().and_then(json_item);
    for item in written.into_iter().chain([Feed(bytes).item(3)]) {
        let json = item_json(&item).to_string();
        let read = serde_json::from_str(&json).ok().as_ref().and_then(json_item);
        assert_eq!(read.as_ref(), Some(&item), "{json}");
    }
}

/// Agents' reports, one a line, whoever wrote them: merged, and shown as JSON.
pub fn reports(bytes: &[u8]) {
    let lines = bytes.split(|byte| *byte == b'\n');
    let reports: Vec<Report> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let regions: Vec<_> = reports.iter().map(|report| report.region.clone()).collect();
    let heard = reports.into_iter().zip([1, 100_000, 1]).map(|(report, seconds)| {
        assert!(report.patience() >= Duration::from_secs(5));
        Heard { silent: Duration::from_secs(seconds), report }
    });
    let overview = Overview::of(&regions, heard.collect());
    overview.longest_lag();
    assert!(serde_json::to_string(&overview).is_ok());
}

/// Judges a record, and checks the judgement independently.
fn judge(memory: &mut KeyMemory, ordinal: u64, record: Record, floors: &Floors, in_place: bool) {
    let again = memory.clone().judge(ordinal, record.clone(), floors, in_place);
    let judgement = memory.judge(ordinal, record.clone(), floors, in_place);
    assert_eq!(judgement, again, "the same record was judged differently");
    assert!(memory.oldest().is_none_or(|oldest| oldest <= ordinal));
    match judgement.verdict {
        Verdict::EchoPut => {
            let new = record.new.as_ref().expect("a put has a new image");
            assert!(
                is_stamped(new, |kind| kind == Fingerprint::of(new).to_string()),
                "an echo without its stamp"
            );
        }
        Verdict::EchoMark => assert!(is_marked(record.new.as_ref().expect("a mark is an image"))),
        Verdict::EchoDelete => assert!(is_marked(record.old.as_ref().expect("a delete of something"))),
        Verdict::LocalPut | Verdict::LocalDelete => {
            let pushes = judgement.actions.iter().filter(|action| matches!(action, Action::Push(_)));
            assert_eq!(pushes.count(), 1, "a local write goes to the peers once");
        }
        Verdict::Unchanged => assert_eq!(record.old.map(unstamped), record.new.map(unstamped)),
    }
}

fn unstamped(mut item: Item) -> Item {
    item.remove(STAMP);
    item
}

fn is_marked(item: &Item) -> bool {
    is_stamped(item, |kind| kind.starts_with("x-"))
}

/// Whether the stamp has the form that an agent writes, with such a fingerprint.
fn is_stamped(item: &Item, is_kind: impl Fn(&str) -> bool) -> bool {
    let Some(AttributeValue::S(text)) = item.get(STAMP) else { return false };
    let Some(words) = text.strip_prefix(STAMP_MAGIC) else { return false };
    let hex = |word: &str| word.len() == 16 && word.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let version = |hlc: &str, origin: &str| hex(hlc) && origin.parse::<Origin>().is_ok();
    match *words.split(' ').collect::<Vec<_>>() {
        [hlc, origin, base_hlc, base_origin, found, nonce] => {
            let base = (base_hlc, base_origin) == ("-", "-") || version(base_hlc, base_origin);
            version(hlc, origin) && base && is_kind(found) && hex(nonce)
        }
        _ => false,
    }
}

fn key(name: u8) -> Item {
    Item::from([("pk".to_owned(), AttributeValue::N(name.to_string()))])
}

/// Bytes, consumed as needed. Zeros follow the last one.
struct Feed<'a>(&'a [u8]);

impl Feed<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn millis(&mut self) -> u64 {
        u64::from(self.byte()) * 20_000
    }

    fn origin(&mut self) -> Origin {
        self.pick(&["a", "b", "c"]).parse().expect("a name")
    }

    fn pick(&mut self, names: &[&str]) -> String {
        names[usize::from(self.byte()) % names.len()].to_owned()
    }

    fn text(&mut self) -> String {
        let (text, rest) = self.0.split_at(usize::from(self.byte() % 9).min(self.0.len()));
        let text = String::from_utf8_lossy(text).into_owned();
        self.0 = &rest[rest.len().min(1)..];
        text
    }

    fn version(&mut self) -> Version {
        Version { hlc: Hlc::at_millis(self.millis()), origin: self.origin() }
    }

    fn value(&mut self, depth: u8) -> AttributeValue {
        match self.byte() % if depth == 0 { 8 } else { 10 } {
            0 => AttributeValue::S(self.text()),
            1 => AttributeValue::N(self.pick(&[
                "0",
                "-0.0",
                "1e400",
                "10",
                "1E1",
                ".",
                "e",
                "--1",
                "1e99999999999999999999",
            ])),
            2 => AttributeValue::N(self.text()),
            3 => AttributeValue::B(Blob::new(self.text())),
            4 => AttributeValue::Bool(self.byte() > 99),
            5 => AttributeValue::Ss(vec![self.text(), self.text()]),
            6 => AttributeValue::Ns(vec![self.text(), self.text()]),
            7 => AttributeValue::Null(self.byte() > 99),
            8 => AttributeValue::L(vec![self.value(depth - 1), self.value(depth - 1)]),
            _ => AttributeValue::M(self.item(depth - 1)),
        }
    }

    fn item(&mut self, depth: u8) -> Item {
        let mut item = Item::new();
        while self.byte().is_multiple_of(3) && !self.0.is_empty() {
            item.insert(self.pick(&["pk", "x", "y", ""]), self.value(depth));
        }
        item
    }

    /// No item, or one without a stamp, with a valid one, or with another one.
    fn image(&mut self) -> Option<Item> {
        let form = self.byte() % 8;
        if form == 0 {
            return None;
        }
        let mut item = self.item(2);
        item.extend(key(0));
        let print = if form == 4 { Fingerprint::of(&Item::new()) } else { Fingerprint::of(&item) };
        let body = match form {
            1 => return Some(item),
            2 => crate::protocol::Body::Delete,
            3 => {
                item.insert(STAMP.to_owned(), self.value(1));
                return Some(item);
            }
            _ => crate::protocol::Body::Put(Item::new().into(), print),
        };
        let base = (self.byte() > 128).then(|| self.version());
        let write =
            Write { key: Item::new(), version: self.version(), base, body, replaced: None, home: None };
        let stamp =
            write.stamp(Nonce::new(&self.origin(), self.byte().into()), &Guard::Exactly(&item)).to_string();
        let stamp =
            if form == 7 { stamp[..stamp.len() - usize::from(self.byte() % 60)].to_owned() } else { stamp };
        item.insert(STAMP.to_owned(), AttributeValue::S(stamp));
        Some(item)
    }

    fn stream_record(&mut self) -> StreamRecord {
        let lacks = self.byte();
        let to_stream = |item: Item| item.into_iter().map(|(name, value)| (name, to_stream(value))).collect();
        let body = Body::builder()
            .set_sequence_number((lacks != 1).then(|| self.text()))
            .set_approximate_creation_date_time(
                (lacks != 2).then(|| DateTime::from_secs(i64::from(self.byte()) * 20 - 40)),
            )
            .set_keys((lacks != 3).then(|| to_stream(key(self.byte() % 2))))
            .set_old_image(self.image().map(to_stream))
            .set_new_image(self.image().map(to_stream))
            .build();
        StreamRecord::builder().set_dynamodb((lacks != 4).then_some(body)).build()
    }

    /// What an attribute of a control row may hold.
    fn checkpoint(&mut self) -> AttributeValue {
        if self.byte().is_multiple_of(4) {
            return self.value(2);
        }
        let mut fields = BTreeMap::new();
        while !self.byte().is_multiple_of(8) {
            let name = self.pick(&["done", "rewind", "floors", "millis"]);
            let floor = (self.text(), self.value(0));
            let value = match self.byte() % 3 {
                0 => AttributeValue::M([floor].into()),
                1 => self.value(1),
                _ => AttributeValue::N(self.byte().to_string()),
            };
            fields.insert(name, value);
        }
        AttributeValue::M(fields.into_iter().collect())
    }
}

fn to_stream(value: AttributeValue) -> StreamValue {
    let blob = |bytes: Blob| aws_sdk_dynamodbstreams::primitives::Blob::new(bytes.into_inner());
    match value {
        AttributeValue::S(text) => StreamValue::S(text),
        AttributeValue::N(number) => StreamValue::N(number),
        AttributeValue::B(bytes) => StreamValue::B(blob(bytes)),
        AttributeValue::Bool(flag) => StreamValue::Bool(flag),
        AttributeValue::Null(flag) => StreamValue::Null(flag),
        AttributeValue::Ss(set) => StreamValue::Ss(set),
        AttributeValue::Ns(set) => StreamValue::Ns(set),
        AttributeValue::Bs(set) => StreamValue::Bs(set.into_iter().map(blob).collect()),
        AttributeValue::L(list) => StreamValue::L(list.into_iter().map(to_stream).collect()),
        AttributeValue::M(map) => {
            StreamValue::M(map.into_iter().map(|(name, value)| (name, to_stream(value))).collect())
        }
        other => unreachable!("the feed makes no {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Runs a target on its corpus: inputs that once mattered, and a few plain ones.
    fn replay(target: fn(&[u8]), name: &str) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut inputs = 0;
        for entry in std::fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("a file").path())
        {
            let bytes = std::fs::read(&entry).expect("a readable file");
            assert!(std::panic::catch_unwind(|| target(&bytes)).is_ok(), "on {}", entry.display());
            inputs += 1;
        }
        assert!(inputs > 0, "nothing in {}", folder.display());
    }

    #[test]
    fn every_target_holds_on_its_corpus() {
        replay(super::config, "config");
        replay(super::records, "records");
        replay(super::stamps, "stamps");
        replay(super::control_rows, "control_rows");
        replay(super::lenient, "lenient");
        replay(super::items, "items");
        replay(super::reports, "reports");
    }

    proptest! {
        #[test]
        fn every_target_holds_on_random_bytes(bytes in vec(any::<u8>(), 0..300)) {
            super::records(&bytes);
            super::stamps(&bytes);
            super::control_rows(&bytes);
            super::lenient(&bytes);
            super::items(&bytes);
            super::reports(&bytes);
        }

        #[test]
        fn a_report_of_any_figures_can_be_told(
            figures in vec((
                prop_oneof![Just(0.0), Just(-1e308), Just(1e308), any::<f64>().prop_filter("JSON", |f| f.is_finite())],
                prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
            ), 3),
        ) {
            let report = |(seconds, count): &(f64, u64)| serde_json::json!({
                "region": "dublin", "agent": "a", "millis": count, "interval_millis": count, "running_seconds": seconds,
                "writes_per_second": seconds, "more_tables": count, "total": { "records": count, "conflicts": count },
                "peers": { "tokyo": {
                    "watermark_age": seconds, "backlog": count, "lag": [[count, count], [1, count]],
                    "last_heartbeat_ms": seconds, "paused_until": count,
                } },
                "tables": [{ "table": "t", "keys": count, "unread": seconds, "ages": { "tokyo": seconds },
                    "arrivals": { "tokyo": seconds }, "marks": count, "conflicts": count, "gaps": count }],
            }).to_string();
            let lines: Vec<_> = figures.iter().map(report).collect();
            super::reports(lines.join("\n").as_bytes());
        }

        #[test]
        fn any_text_is_a_configuration_or_refused(
            lines in vec(prop_oneof![
                Just("[[region]]".to_owned()),
                Just("[[table]]".to_owned()),
                Just("[tuning]".to_owned()),
                "(name|aws_region|endpoint|replicas|settle|concurrency) = (\"[ -~é]{0,9}\"|[0-9]{1,4}|\\[\"a\", \"b\"\\])",
                "\\PC{0,20}",
            ], 0..12)
        ) {
            super::config(lines.join("\n").as_bytes());
        }
    }
}
