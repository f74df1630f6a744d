//! An application's write, as somebody sees it who knows nothing of Tradewind.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[cfg(feature = "jaq")]
use super::Transform;
use super::{FeedName, Projection};
use crate::item_json::item_json;
use crate::protocol::{
    Action, Body, Fingerprint, Item, Judgement, KeyId, Origin, STAMP, Selection, Stamp, Version, Visible,
    Write,
};
use crate::source::{EventName, Sequence, ShardId, UserIdentity};

/// Which changes a feed tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Events {
    /// The writes that applications make in a region.
    #[default]
    Origin,
    /// Each change that a replica shows, wherever it was made.
    Replica,
    /// What stands in a replica: of each item, versions that only rise.
    State,
}

/// The images of a record.
#[derive(Clone, Debug)]
pub struct Images {
    pub key: Item,
    pub old: Option<Item>,
    pub new: Option<Item>,
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

/// What a feed shows of an event.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    pub events: Events,
    pub view: View,
    /// Which items, and which of their attributes; all, unless given.
    pub selection: Option<Selection>,
    /// What the images show in place of the item's own attributes, if anything.
    pub fields: Option<Projection>,
    /// Whether an event is exactly a record of DynamoDB Streams, without what Tradewind knows beside that.
    pub strict: bool,
    /// What makes another value of an event, if anything.
    #[cfg(feature = "jaq")]
    pub transform: Option<Transform>,
}

/// The images that a feed shows, as DynamoDB Streams calls them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum View {
    KeysOnly,
    NewImage,
    OldImage,
    #[default]
    NewAndOldImages,
}

/// Which feed tells an event, where it was made, and what is shown of it.
#[derive(Clone, Debug)]
pub struct Telling {
    pub feed: FeedName,
    /// The table's name in the configuration.
    pub table: String,
    pub region: Origin,
    pub aws_region: String,
    pub shape: Shape,
}

/// What the stream says about an event beside its images.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// The stream's ARN.
    pub stream: Arc<str>,
    pub shard: ShardId,
    pub sequence: Sequence,
    pub created_millis: u64,
    pub bytes: u64,
    pub user: Option<UserIdentity>,
}

impl Images {
    /// In place of the images of a record that lacks one: what its key alone would have been, so that its write gets a
    /// version. It can only be an application's, since agents write to no table whose stream lacks images.
    pub fn of_key(&self, name: EventName) -> (Option<Item>, Option<Item>) {
        let key = Some(self.key.clone());
        if name == EventName::Remove { (key, None) } else { (None, key) }
    }
}

impl Event {
    /// The event of a record that lacks an image, which its stream does not show: a write of an application's.
    pub fn of_part(judgement: &Judgement, name: EventName, images: &Images, shape: &Shape) -> Option<Self> {
        let Write { version, base, .. } = pushed(judgement)?;
        let shown = |image: &Item| shape.part(&images.key, &unstamped(image)).map(Cow::into_owned);
        let (old, new) = (images.old.as_ref().and_then(shown), images.new.as_ref().and_then(shown));
        let (key, version, base) = (images.key.clone(), version.clone(), base.clone());
        Some(Self { name, key, old, new: new.map(Arc::new), version, base })
    }

    /// What a feed tells of a record, if anything. `images` are needed for what other regions' applications write.
    pub fn of(judgement: &Judgement, images: Option<&Images>, shape: &Shape) -> Option<Self> {
        // Whoever is told what stands has not been told what this replaces.
        let is_news = judgement.was_stale && shape.events == Events::State;
        match (pushed(judgement), shape.events) {
            (Some(write), _) => Self::of_write(write, shape, is_news),
            (None, Events::Origin) => None,
            (None, Events::State) if judgement.is_stale => None,
            (None, Events::Replica | Events::State) => Self::of_arrival(judgement, images?, shape, is_news),
        }
    }

    /// The event of an application's write in this region; `None` if nothing of what the feed shows has changed.
    fn of_write(write: &Write, shape: &Shape, is_news: bool) -> Option<Self> {
        let replaced = write.replaced.as_deref();
        let (old, new) = match &write.body {
            Body::Put(item, _) => {
                (replaced.and_then(|image| visible(image, &write.key)), Some(Arc::clone(item)))
            }
            // What an application's delete removes is an application's, even if it looks like a marked item.
            Body::Delete => (replaced.map(unstamped), None),
        };
        Self::between(&write.key, old, new, (write.version.clone(), write.base.clone()), shape, is_news)
    }

    /// The event of a write that has arrived from another region. What this region's own agent puts back, and the
    /// deletes that it applies, are none: they were told before.
    fn of_arrival(judgement: &Judgement, images: &Images, shape: &Shape, is_news: bool) -> Option<Self> {
        let Images { key, old, new } = images;
        let stamp = Stamp::read(new.as_ref()?)?;
        if !judgement.verdict.is_echo() || (stamp.nonce.is_of(&stamp.version.origin) && !judgement.is_seed) {
            return None;
        }
        let of = |image: &Option<Item>| image.as_ref().and_then(|image| visible(image, key));
        Self::between(key, of(old), of(new).map(Arc::new), (stamp.version, stamp.base), shape, is_news)
    }

    /// A change from one image to the other, as a feed shows it; told though nothing differs if it `is_news`.
    ///
    /// A marked item counts as absent: its delete is told where it is marked.
    fn between(
        key: &Item,
        old: Option<Item>,
        new: Option<Arc<Item>>,
        (version, base): (Version, Option<Version>),
        shape: &Shape,
        is_news: bool,
    ) -> Option<Self> {
        let old = old.and_then(|image| match shape.part(key, &image)? {
            Cow::Borrowed(_) => Some(image),
            Cow::Owned(part) => Some(part),
        });
        let new = new.and_then(|image| match shape.part(key, &image)? {
            Cow::Borrowed(_) => Some(image),
            Cow::Owned(part) => Some(Arc::new(part)),
        });
        let name = match (&old, &new) {
            (None, None) if is_news => EventName::Remove,
            (None, None) => return None,
            (Some(old), Some(new)) if !is_news && Fingerprint::of(old) == Fingerprint::of(new) => {
                return None;
            }
            (None, Some(_)) => EventName::Insert,
            (Some(_), Some(_)) => EventName::Modify,
            (Some(_), None) => EventName::Remove,
        };
        Some(Self { name, key: key.clone(), old, new, version, base })
    }

    /// Which event it is: the same however often it is told, and no other's.
    pub fn id(&self) -> String {
        let Version { hlc, origin } = &self.version;
        format!("{hlc}.{origin}.{}", KeyId::of(&self.key))
    }

    /// The event in the shape of a record of DynamoDB Streams, as Lambda gets it, with all images; and beside that what
    /// Tradewind knows of it. Filters see this.
    pub fn json(&self, telling: &Telling, provenance: &Provenance) -> Value {
        let Telling { feed, table, region, aws_region, shape } = telling;
        let Provenance { stream, sequence, created_millis, bytes, user, .. } = provenance;
        let mut body = json!({
            "ApproximateCreationDateTime": seconds(*created_millis),
            "Keys": item_json(&self.key),
            "SequenceNumber": sequence.as_str(),
            "SizeBytes": bytes,
            "StreamViewType": shape.view,
        });
        let images = [(OLD, self.old.as_ref()), (NEW, self.new.as_deref())];
        for (name, image) in images.into_iter().filter_map(|(name, image)| Some((name, image?))) {
            body[name] = item_json(image);
        }
        let mut event = json!({
            "eventID": self.id(),
            "eventName": self.name,
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": aws_region,
            "dynamodb": body,
            "eventSourceARN": stream,
        });
        if let Some(UserIdentity { kind, principal }) = user {
            event["userIdentity"] = json!({ "type": kind, "principalId": principal });
        }
        if !shape.strict {
            let text = |version: &Version| version.to_string().trim_end().to_owned();
            event["tradewind"] = json!({
                "feed": feed,
                "table": table,
                "region": region.as_str(),
                "origin": self.version.origin.as_str(),
                "version": text(&self.version),
                "base": self.base.as_ref().map(text),
            });
        }
        event
    }
}

impl Shape {
    /// What is shown of an image, if it is shown.
    fn part<'a>(&self, key: &Item, image: &'a Item) -> Option<Cow<'a, Item>> {
        let part = match self.selection.as_ref().map(|selection| selection.shows(key, image)) {
            None => Cow::Borrowed(image),
            Some(Visible::Item(part)) => part,
            Some(Visible::Nothing | Visible::Never) => return None,
        };
        Some(match &self.fields {
            None => part,
            Some(fields) => Cow::Owned(fields.of(&part)),
        })
    }

    /// The text of an event that has its view: nothing if the feed's program yields nothing for it, and why if the
    /// program fails.
    pub fn text(&self, event: &Value) -> Result<Option<String>, String> {
        #[cfg(feature = "jaq")]
        if let Some(transform) = &self.transform {
            let told =
                transform.of(event).map_err(|error| format!("the feed's `transform` fails: {error}"))?;
            return Ok(told.map(|told| told.to_string()));
        }
        Ok(Some(event.to_string()))
    }
}

impl View {
    /// Its name in DynamoDB.
    pub fn name(self) -> &'static str {
        match self {
            Self::KeysOnly => "KEYS_ONLY",
            Self::NewImage => "NEW_IMAGE",
            Self::OldImage => "OLD_IMAGE",
            Self::NewAndOldImages => "NEW_AND_OLD_IMAGES",
        }
    }

    /// The images of a record that it does not show.
    pub fn hidden(self) -> &'static [&'static str] {
        match self {
            Self::KeysOnly => &[OLD, NEW],
            Self::NewImage => &[OLD],
            Self::OldImage => &[NEW],
            Self::NewAndOldImages => &[],
        }
    }

    /// Whether it has each image that another one has.
    pub fn covers(self, other: Self) -> bool {
        self.hidden().iter().all(|image| other.hidden().contains(image))
    }

    /// Takes the images off an event that are not shown.
    pub fn project(self, event: &mut Value) {
        if let Some(body) = event["dynamodb"].as_object_mut() {
            body.retain(|name, _| !self.hidden().contains(&name.as_str()));
        }
    }
}

/// The write that a record asks for.
fn pushed(judgement: &Judgement) -> Option<&Write> {
    judgement.actions.iter().find_map(|action| match action {
        Action::Push(write) => Some(write),
        _ => None,
    })
}

const OLD: &str = "OldImage";
const NEW: &str = "NewImage";

/// What is seen of an image; nothing of an item that is marked to be deleted.
fn visible(image: &Item, key: &Item) -> Option<Item> {
    let is_marked = Stamp::read(image).is_some_and(|stamp| stamp.is_mark() && stamp.fits(image, key));
    (!is_marked).then(|| unstamped(image))
}

fn unstamped(image: &Item) -> Item {
    let data = image.iter().filter(|(name, _)| *name != STAMP);
    data.map(|(name, value)| (name.clone(), value.clone())).collect()
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
    use crate::feed::Field;
    use crate::protocol::{Floors, Hlc, KeyMemory, Nonce, Record, Verdict};

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
        let event = Event::of(&judgement, None, &Shape::default());
        (judgement.verdict, event.into_iter().collect())
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
            shape: Shape::default(),
        };
        let provenance = Provenance {
            stream: "arn:aws:dynamodb:ap-northeast-1:1:table/orders/stream/x".into(),
            shard: ShardId("shard".into()),
            sequence: Sequence::new("700"),
            created_millis: 1_800_000_000_500,
            bytes: 21,
            user: Some(UserIdentity {
                kind: "Service".to_owned(),
                principal: "dynamodb.amazonaws.com".to_owned(),
            }),
        };
        let event = &events[0];
        assert_eq!(
            event.json(&telling, &provenance),
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
                    "SequenceNumber": "700",
                    "SizeBytes": 21,
                    "StreamViewType": "NEW_AND_OLD_IMAGES",
                },
                "eventSourceARN": "arn:aws:dynamodb:ap-northeast-1:1:table/orders/stream/x",
                "userIdentity": { "type": "Service", "principalId": "dynamodb.amazonaws.com" },
                "tradewind": {
                    "feed": "search", "table": "orders", "region": "tokyo", "origin": "tokyo",
                    "version": event.version.to_string().trim_end(), "base": null,
                },
            })
        );
        assert_eq!(seconds(1_800_000_000_000), json!(1_800_000_000));
        let strict = Telling { shape: Shape { strict: true, ..Shape::default() }, ..telling };
        assert_eq!(event.json(&strict, &provenance).get("tradewind"), None);
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one story of one item")]
    fn a_replica_shows_what_arrives_and_a_state_never_goes_back() {
        let version = |millis: u64, of: &str| Version { hlc: Hlc::at_millis(millis), origin: origin(of) };
        let stamped = |data: &str, version: &Version, by: &str, is_mark: bool| {
            let fingerprint = Fingerprint::of(&item(data, None));
            let mark = if is_mark { "x-" } else { "" };
            let text = format!(
                "tw1 {version}- - {mark}{fingerprint} {}",
                Nonce::new(&origin(by), version.hlc.millis())
            );
            let stamp = Stamp::read(&Item::from([(STAMP.to_owned(), AttributeValue::S(text))]));
            item(data, Some(&stamp.expect("a stamp")))
        };
        let mut memory = KeyMemory::new(origin("tokyo"));
        let (newer, older) = (version(1_800_000_060_000, "tokyo"), version(1_800_000_030_000, "dublin"));
        let (newest, mark) = (version(1_800_000_090_000, "dublin"), version(1_800_000_099_000, "dublin"));
        let some = |data: &str| Some(item(data, None));
        let stale = stamped("older", &older, "tokyo", false);
        // What stands after a delete mark is the item still.
        let marked = stamped("newest", &mark, "tokyo", true);
        let put = stamped("newest", &newest, "tokyo", false);
        let marked_again = stamped("last", &version(1_800_000_169_000, "dublin"), "tokyo", true);
        let updated = item("more", Stamp::read(&marked_again).as_ref());
        for (what, millis, old, new, replica, state) in [
            (
                "a local write",
                newer.hlc.millis(),
                None,
                some("new"),
                Some(EventName::Insert),
                Some(EventName::Insert),
            ),
            (
                "a stale put",
                1_800_000_061_000,
                some("new"),
                Some(stale.clone()),
                Some(EventName::Modify),
                None,
            ),
            (
                "its heal",
                1_800_000_062_000,
                Some(stale),
                Some(stamped("new", &newer, "tokyo", false)),
                None,
                None,
            ),
            (
                "another local write",
                1_800_000_063_000,
                Some(stamped("new", &newer, "tokyo", false)),
                some("newer"),
                Some(EventName::Modify),
                Some(EventName::Modify),
            ),
            (
                "another stale put",
                1_800_000_064_000,
                some("newer"),
                Some(stamped("older", &version(1_800_000_031_000, "dublin"), "tokyo", false)),
                Some(EventName::Modify),
                None,
            ),
            (
                "a newer put of the same data, which nobody has been told",
                1_800_000_065_000,
                Some(stamped("older", &version(1_800_000_031_000, "dublin"), "tokyo", false)),
                Some(stamped("older", &version(1_800_000_065_000, "dublin"), "tokyo", false)),
                None,
                Some(EventName::Modify),
            ),
            (
                "a newer put",
                1_800_000_091_000,
                Some(stamped("older", &version(1_800_000_065_000, "dublin"), "tokyo", false)),
                Some(put.clone()),
                Some(EventName::Modify),
                Some(EventName::Modify),
            ),
            (
                "a mark",
                1_800_000_100_000,
                Some(put),
                Some(marked.clone()),
                Some(EventName::Remove),
                Some(EventName::Remove),
            ),
            ("the delete that follows it", 1_800_000_101_000, Some(marked), None, None, None),
            (
                "a put after it",
                1_800_000_150_000,
                None,
                some("last"),
                Some(EventName::Insert),
                Some(EventName::Insert),
            ),
            (
                "its mark",
                1_800_000_170_000,
                some("last"),
                Some(marked_again.clone()),
                Some(EventName::Remove),
                Some(EventName::Remove),
            ),
            (
                "an update that keeps the mark",
                1_800_000_171_000,
                Some(marked_again.clone()),
                Some(updated.clone()),
                Some(EventName::Insert),
                Some(EventName::Insert),
            ),
            (
                "an update back to what was marked",
                1_800_000_172_000,
                Some(updated),
                Some(marked_again.clone()),
                Some(EventName::Modify),
                Some(EventName::Modify),
            ),
            (
                "the delete of that",
                1_800_000_173_000,
                Some(marked_again),
                None,
                Some(EventName::Remove),
                Some(EventName::Remove),
            ),
        ] {
            let images = Images { key: key(), old: old.clone(), new: new.clone() };
            let record = Record { created_millis: millis, key: key(), old, new };
            let judgement = memory.judge(millis, record, &Floors::default(), false);
            let event = |events| {
                let shape = Shape { events, ..Shape::default() };
                Event::of(&judgement, Some(&images), &shape).map(|event| event.name)
            };
            assert_eq!(
                (event(Events::Replica), event(Events::State)),
                (replica, state),
                "{what}: {judgement:?}"
            );
        }
    }

    #[test]
    fn a_view_shows_the_images_that_it_names() {
        for (view, images) in [
            (View::KeysOnly, ""),
            (View::NewImage, "NewImage"),
            (View::OldImage, "OldImage"),
            (View::NewAndOldImages, "NewImage OldImage"),
        ] {
            let mut event = json!({ "dynamodb": { "Keys": 1, "NewImage": 2, "OldImage": 3 } });
            view.project(&mut event);
            let shown = event["dynamodb"].as_object().expect("an object").keys();
            let shown: Vec<_> = shown.filter(|name| *name != "Keys").cloned().collect();
            assert_eq!(shown.join(" "), images);
        }
    }

    #[test]
    fn a_write_whose_stream_lacks_images_is_told_by_its_name() {
        let mut memory = KeyMemory::new(origin("tokyo"));
        let stamped = Some(item("old", Some(&stamp("old", false))));
        let some = |data: &str| Some(item(data, None));
        let mut ids = std::collections::BTreeSet::new();
        for (ordinal, (name, old, new)) in [
            (EventName::Insert, None, None),
            (EventName::Modify, None, some("a")),
            (EventName::Modify, some("a"), None),
            (EventName::Modify, None, None),
            (EventName::Remove, None, None),
            // The rest of another setup.
            (EventName::Modify, None, stamped),
        ]
        .into_iter()
        .enumerate()
        {
            let images = Images { key: key(), old: old.clone(), new: new.clone() };
            let (of_old, of_new) = images.of_key(name);
            // All within one second, as DynamoDB's times are.
            let record = Record { created_millis: 1_800_000_000_000, key: key(), old: of_old, new: of_new };
            let judgement = memory.judge(ordinal as u64, record, &Floors::default(), false);
            let event = Event::of_part(&judgement, name, &images, &Shape::default()).expect("an event");
            assert_eq!(
                (event.name, event.old.is_some(), event.new.is_some()),
                (name, old.is_some(), new.is_some())
            );
            assert!(event.new.as_ref().is_none_or(|image| !image.contains_key(STAMP)));
            assert!(ids.insert(event.id()), "{name:?} has the id of another event");
        }
    }

    #[test]
    fn a_view_covers_what_it_shows() {
        use View::{KeysOnly, NewAndOldImages, NewImage, OldImage};
        let all = [KeysOnly, NewImage, OldImage, NewAndOldImages];
        let covered = |view: View| all.into_iter().filter(|other| view.covers(*other)).collect::<Vec<_>>();
        assert_eq!(covered(KeysOnly), [KeysOnly]);
        assert_eq!(covered(NewImage), [KeysOnly, NewImage]);
        assert_eq!(covered(OldImage), [KeysOnly, OldImage]);
        assert_eq!(covered(NewAndOldImages), all);
    }

    #[test]
    fn what_a_selection_leaves_out_is_no_event() {
        let without = Selection { without: ["v".to_owned()].into(), ..Selection::default() };
        let only = crate::protocol::Test::Is(vec![text("paid")]);
        let only = Selection { only: vec![("v".to_owned(), only)], ..Selection::default() };
        let some = |data: &str| Some(item(data, None));
        for (selection, old, new, expected) in [
            (&without, some("old"), some("new"), None),
            (&without, None, some("new"), Some(EventName::Insert)),
            (&only, some("old"), some("new"), None),
            (&only, some("old"), some("paid"), Some(EventName::Insert)),
            (&only, some("paid"), some("old"), Some(EventName::Remove)),
        ] {
            let record = Record { created_millis: 1_800_000_000_500, key: key(), old, new };
            let judgement =
                KeyMemory::new(origin("tokyo")).judge(0, record.clone(), &Floors::default(), false);
            let shape = Shape { selection: Some(selection.clone()), ..Shape::default() };
            let event = Event::of(&judgement, None, &shape);
            assert_eq!(event.map(|event| event.name), expected, "{selection:?} {record:?}");
        }
    }

    #[test]
    fn images_show_the_fields_that_are_named_and_nothing_else_is_a_change() {
        let field = Field::At(vec!["v".to_owned()]);
        let fields = Some(Projection::new([("state".to_owned(), field)].into()));
        let shape = Shape { fields, ..Shape::default() };
        let with = |data: &str, more: &str| {
            let mut item = item(data, None);
            item.insert("more".to_owned(), text(more));
            Some(item)
        };
        for (old, new, expected) in [
            (with("a", "1"), with("b", "1"), Some((EventName::Modify, "b"))),
            (with("a", "1"), with("a", "2"), None),
            (None, with("a", "1"), Some((EventName::Insert, "a"))),
        ] {
            let record = Record { created_millis: 1_800_000_000_500, key: key(), old, new };
            let judgement = KeyMemory::new(origin("tokyo")).judge(0, record, &Floors::default(), false);
            let event = Event::of(&judgement, None, &shape);
            let shown = event.map(|event| (event.name, event.key, event.new.expect("an image")));
            let image = |state: &str| Arc::new(Item::from([("state".to_owned(), text(state))]));
            assert_eq!(shown, expected.map(|(name, state)| (name, key(), image(state))));
        }
    }
}
