//! An application's write, as somebody sees it who knows nothing of Tradewind.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use super::FeedName;
use crate::item_json::item_json;
use crate::protocol::{Body, Fingerprint, Item, KeyId, Origin, STAMP, Stamp, Version, Write};

/// What a write did to its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventName {
    Insert,
    Modify,
    Remove,
}

/// One write of an application, without a trace of Tradewind.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub name: EventName,
    pub key: Item,
    pub old: Option<Item>,
    pub new: Option<Arc<Item>>,
    pub version: Version,
    /// The version that the write was made on top of, if known.
    pub base: Option<Version>,
}

/// Which feed tells an event, and where it was made.
#[derive(Clone, Debug)]
pub struct Telling {
    pub feed: FeedName,
    /// The table's name in the configuration.
    pub table: String,
    pub region: Origin,
    pub aws_region: String,
}

impl Event {
    /// The event of an application's write; `None` if nothing has changed for who sees no stamps.
    ///
    /// A marked item counts as absent: its delete was told by the region that made it.
    pub fn of(write: &Write) -> Option<Self> {
        let old = write.replaced.as_deref().and_then(|image| visible(image, &write.key));
        let (name, new) = match (&old, &write.body) {
            (None, Body::Delete) => return None,
            (Some(old), Body::Put(_, fingerprint)) if Fingerprint::of(old) == *fingerprint => return None,
            (None, Body::Put(item, _)) => (EventName::Insert, Some(Arc::clone(item))),
            (Some(_), Body::Put(item, _)) => (EventName::Modify, Some(Arc::clone(item))),
            (Some(_), Body::Delete) => (EventName::Remove, None),
        };
        let (key, version, base) = (write.key.clone(), write.version.clone(), write.base.clone());
        Some(Self { name, key, old, new, version, base })
    }

    /// Which event it is: the same however often it is told, and no other's.
    pub fn id(&self) -> String {
        let Version { hlc, origin } = &self.version;
        format!("{hlc}.{origin}.{}", KeyId::of(&self.key))
    }

    /// The event in the shape of a record of DynamoDB Streams, as Lambda gets it, and beside that what
    /// Tradewind knows of it.
    pub fn json(&self, telling: &Telling, created_millis: u64) -> Value {
        let Telling { feed, table, region, aws_region } = telling;
        let mut body = json!({
            "ApproximateCreationDateTime": seconds(created_millis),
            "Keys": item_json(&self.key),
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        });
        let images = [("OldImage", self.old.as_ref()), ("NewImage", self.new.as_deref())];
        for (name, image) in images.into_iter().filter_map(|(name, image)| Some((name, image?))) {
            body[name] = item_json(image);
        }
        let text = |version: &Version| version.to_string().trim_end().to_owned();
        json!({
            "eventID": self.id(),
            "eventName": self.name,
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": aws_region,
            "dynamodb": body,
            "tradewind": {
                "feed": feed,
                "table": table,
                "region": region.as_str(),
                "version": text(&self.version),
                "base": self.base.as_ref().map(text),
            },
        })
    }
}

/// What is seen of an image; nothing of an item that is marked to be deleted.
fn visible(image: &Item, key: &Item) -> Option<Item> {
    let is_marked = Stamp::read(image).is_some_and(|stamp| stamp.is_mark() && stamp.fits(image, key));
    (!is_marked).then(|| {
        let names = image.iter().filter(|(name, _)| *name != STAMP);
        names.map(|(name, value)| (name.clone(), value.clone())).collect()
    })
}

/// Seconds since the Unix epoch, whole ones as an integer.
fn seconds(millis: u64) -> Value {
    if millis.is_multiple_of(1000) {
        return json!(millis / 1000);
    }
    #[expect(clippy::cast_precision_loss, reason = "exact until the year 287396")]
    let seconds = millis as f64 / 1000.0;
    json!(seconds)
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;
    use crate::protocol::{Floors, KeyMemory, Record, Verdict};

    fn origin(name: &str) -> Origin {
        name.parse().expect("a name")
    }

    fn text(text: &str) -> AttributeValue {
        AttributeValue::S(text.to_owned())
    }

    fn item(data: &str, stamp: Option<&Stamp>) -> Item {
        let data = (!data.is_empty()).then(|| ("v".to_owned(), text(data)));
        let stamp = stamp.map(|stamp| (STAMP.to_owned(), text(&stamp.to_string())));
        key().into_iter().chain(data).chain(stamp).collect()
    }

    fn key() -> Item {
        Item::from([("pk".to_owned(), text("a"))])
    }

    /// What an agent in Tokyo makes of a record, and the events that follow.
    fn told(old: Option<Item>, new: Option<Item>) -> (Verdict, Vec<Event>) {
        let record = Record { created_millis: 1_800_000_000_500, key: key(), old, new };
        let judgement = KeyMemory::new(origin("tokyo")).judge(0, record, &Floors::default(), false);
        let writes = judgement.actions.iter().filter_map(|action| match action {
            crate::protocol::Action::Push(write) => Event::of(write),
            _ => None,
        });
        (judgement.verdict, writes.collect())
    }

    fn stamp(data: &str, is_mark: bool) -> Stamp {
        use crate::protocol::{Hlc, Nonce};
        let fingerprint = Fingerprint::of(&item(data, None));
        let version = Version { hlc: Hlc::at_millis(1_700_000_000_000), origin: origin("dublin") };
        let mark = if is_mark { "x-" } else { "" };
        // The stamp names where it was set.
        let nonce = Nonce::new(&origin("tokyo"), 7);
        let text = format!("tw1 {version}- - {mark}{fingerprint} {nonce}");
        Stamp::read(&Item::from([(STAMP.to_owned(), AttributeValue::S(text))])).expect("a stamp")
    }

    #[test]
    fn a_write_of_an_application_is_told_as_if_there_were_no_stamps() {
        let (put, mark) = (stamp("old", false), stamp("old", true));
        let bare = stamp("", true);
        let some = |data: &str| Some(item(data, None));
        for (what, old, new, expected) in [
            ("an insert", None, some("new"), Some((EventName::Insert, None, Some("new")))),
            ("an update", some("old"), some("new"), Some((EventName::Modify, Some("old"), Some("new")))),
            (
                "an update of a replicated item, which keeps its stamp",
                Some(item("old", Some(&put))),
                Some(item("new", Some(&put))),
                Some((EventName::Modify, Some("old"), Some("new"))),
            ),
            (
                "a delete of a replicated item",
                Some(item("old", Some(&put))),
                None,
                Some((EventName::Remove, Some("old"), None)),
            ),
            (
                "an insert over a bare mark",
                Some(item("", Some(&bare))),
                some("new"),
                Some((EventName::Insert, None, Some("new"))),
            ),
            (
                "a put over a marked item",
                Some(item("old", Some(&mark))),
                some("new"),
                Some((EventName::Insert, None, Some("new"))),
            ),
            (
                "an update of what was put over a marked item",
                Some(item("newer", Some(&mark))),
                some("newest"),
                Some((EventName::Modify, Some("newer"), Some("newest"))),
            ),
            ("a replicated put", None, Some(item("old", Some(&put))), None),
            ("the stamp alone taken off", Some(item("old", Some(&put))), some("old"), None),
        ] {
            let (verdict, events) = told(old, new);
            let shown = |image: Option<&Item>| image.map(|image| image["v"].as_s().expect("text").clone());
            let events: Vec<_> = events
                .iter()
                .map(|event| (event.name, shown(event.old.as_ref()), shown(event.new.as_deref())))
                .collect();
            let owned = |data: Option<&str>| data.map(str::to_owned);
            let expected = expected.map(|(name, old, new)| (name, owned(old), owned(new)));
            assert_eq!(events, Vec::from_iter(expected), "{what}: {verdict:?}");
        }
    }

    #[test]
    fn an_event_has_the_shape_of_a_stream_record() {
        let (_, events) = told(Some(item("old", None)), Some(item("new", None)));
        let telling = Telling {
            feed: "search".parse().expect("a name"),
            table: "orders".to_owned(),
            region: origin("tokyo"),
            aws_region: "ap-northeast-1".to_owned(),
        };
        let event = &events[0];
        assert_eq!(
            event.json(&telling, 1_800_000_000_500),
            json!({
                "eventID": event.id(),
                "eventName": "MODIFY",
                "eventVersion": "1.1",
                "eventSource": "aws:dynamodb",
                "awsRegion": "ap-northeast-1",
                "dynamodb": {
                    "ApproximateCreationDateTime": 1_800_000_000.5,
                    "Keys": { "pk": { "S": "a" } },
                    "OldImage": { "pk": { "S": "a" }, "v": { "S": "old" } },
                    "NewImage": { "pk": { "S": "a" }, "v": { "S": "new" } },
                    "StreamViewType": "NEW_AND_OLD_IMAGES",
                },
                "tradewind": {
                    "feed": "search", "table": "orders", "region": "tokyo",
                    "version": event.version.to_string().trim_end(), "base": null,
                },
            })
        );
        assert_eq!(seconds(1_800_000_000_000), json!(1_800_000_000));
    }
}
