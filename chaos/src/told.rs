//! Judges what feeds have told, by the checker's own reading of the streams: which write an event is of says its
//! sequence number, and whether an application made that write, and what it changed, says the checker.
//!
//! Repetitions, which have the id of an earlier event in the same file, are allowed and counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use crate::checker::{Account, Judgement, Version, show};
use crate::history::{History, Image, Seen};

/// An event, as a file tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub name: String,
    pub key: String,
    pub sequence: String,
    pub version: String,
    pub old: Option<Image>,
    pub new: Option<Image>,
}

/// What the feeds' files hold.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Each region's application's writes.
    pub writes: Vec<Vec<Event>>,
    /// What stands in the first region.
    pub state: Vec<Event>,
    /// The regions that have a file of what stands there.
    pub states: Vec<String>,
    /// How many lines are no event, since a crash has cut them short.
    pub cut: usize,
    /// The application's writes that each region's agents have parked: their keys and versions.
    pub parked: Vec<BTreeSet<(String, String)>>,
    /// The key, in each region, of which events may be parked.
    pub refused: Vec<String>,
    /// Whether each event must be there exactly once.
    pub is_archive: bool,
}

/// What was told in a run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Told {
    /// Applications' writes, each counted once.
    pub writes: usize,
    /// Versions of what stands in the first region, each counted once.
    pub states: usize,
    /// Events that were told again.
    pub repetitions: usize,
    /// Applications' writes that were parked.
    pub parked: usize,
    pub cut_lines: usize,
}

/// A violation's kind, its key and its message.
type Wrong = (&'static str, String, String);

/// What feeds have told, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Findings {
    pub told: Told,
    pub wrong: Vec<Wrong>,
}

/// An application's write that no feed has told, and an item whose last version no feed has told: what time may
/// still make good.
const NOT_TOLD: &str = "not told";
const NOT_LATEST: &str = "not the latest";

impl Findings {
    /// Whether everything has been told.
    pub fn is_complete(&self) -> bool {
        !self.wrong.iter().any(|(kind, ..)| matches!(*kind, NOT_TOLD | NOT_LATEST))
    }

    fn fail(&mut self, kind: &'static str, key: &str, message: String) {
        self.wrong.push((kind, key.to_owned(), message));
    }
}

/// A record as an event should show it: a marked item counts as absent.
struct Shown<'a> {
    number: usize,
    seen: &'a Seen,
    account: Account,
    old: Option<&'a str>,
    new: Option<&'a str>,
}

impl Shown<'_> {
    fn name(&self) -> &'static str {
        match (self.old, self.new) {
            (None, _) => "INSERT",
            (Some(_), Some(_)) => "MODIFY",
            (Some(_), None) => "REMOVE",
        }
    }

    /// Its version, as an event spells it.
    fn version(&self, history: &History) -> Option<String> {
        self.account.version.map(|(clock, region)| format!("{clock:016x} {}", history.regions[region]))
    }

    /// What is wrong with what an event says about this record, if anything.
    fn contradiction(&self, event: &Event, history: &History) -> Option<String> {
        let data = |image: &Option<Image>| image.as_ref().map(|image| image.data.clone());
        let expected = [self.old, self.new].map(|data| data.map(str::to_owned));
        let version = self.version(history);
        if [&event.old, &event.new].into_iter().flatten().any(|image| image.stamp.is_some()) {
            return Some("it shows the agents' stamp".to_owned());
        }
        if event.key != self.seen.key {
            return Some(format!("its write is of {}", self.seen.key));
        }
        if [data(&event.old), data(&event.new)] != expected {
            return Some("its images are not those of its write".to_owned());
        }
        if event.name != self.name() {
            return Some(format!("its write is {}", self.name()));
        }
        (version.as_ref() != Some(&event.version)).then(|| format!("its version is {version:?} by the rule"))
    }
}

/// The records of the streams, by region and sequence number.
type Records<'a> = HashMap<(usize, &'a str), Shown<'a>>;

/// Judges what was told.
pub fn check(history: &History, judgement: &Judgement, files: &Files) -> Findings {
    let records = records(history, judgement);
    let told = Told { cut_lines: files.cut, ..Told::default() };
    let mut findings = Findings { told, wrong: Vec::new() };
    for (region, events) in files.writes.iter().enumerate() {
        findings.check_writes(history, &records, region, events, files);
        if files.is_archive {
            findings.check_archive(&history.regions[region], events);
        }
    }
    findings.check_state(history, &records, files);
    if files.is_archive {
        findings.check_archive(&history.regions[0], &files.state);
    }
    findings
}

fn records<'a>(history: &'a History, judgement: &Judgement) -> Records<'a> {
    let mut marked: HashMap<(usize, &str), bool> = HashMap::new();
    let mut records = Records::new();
    for (number, account) in &judgement.accounts {
        let seen = &history.seen[*number];
        let was_marked = marked.insert((seen.region, &seen.key), account.is_mark).unwrap_or_default();
        let data = |image: &'a Option<Image>| image.as_ref().map(|image| image.data.as_str());
        let old = data(&seen.old).filter(|_| !was_marked || account.is_by_app && seen.new.is_none());
        let new = data(&seen.new).filter(|_| !account.is_mark);
        let shown = Shown { number: *number, seen, account: *account, old, new };
        records.insert((seen.region, &seen.sequence), shown);
    }
    records
}

impl Findings {
    /// Each of the region's application's writes must be told once, in the order of its key, and nothing else.
    fn check_writes(
        &mut self,
        history: &History,
        records: &Records,
        region: usize,
        events: &[Event],
        files: &Files,
    ) {
        let name = &history.regions[region];
        let none = BTreeSet::new();
        let parked = files.parked.get(region).unwrap_or(&none);
        for (key, version) in parked.iter().filter(|(key, _)| files.refused.get(region) != Some(key)) {
            self.fail(
                "parked",
                key,
                format!("{name} has parked the event of {version}, which was not to blame"),
            );
        }
        self.told.parked += parked.len();
        let mut by_record: HashMap<&str, &Event> = HashMap::new();
        let mut last: HashMap<&str, usize> = HashMap::new();
        for event in self.first_told(events, name, PartialEq::eq) {
            self.told.writes += 1;
            let (key, what) = (&event.key, format!("{name} tells {} {}", event.name, event.id));
            let record = records.get(&(region, event.sequence.as_str()));
            let Some(record) = record.filter(|record| record.account.is_by_app) else {
                let whose =
                    if record.is_some() { "an agent made that write" } else { "no record shows that" };
                self.fail("made up", key, format!("{what}, but {whose}"));
                continue;
            };
            if let Some(first) = by_record.insert(&event.sequence, event) {
                self.fail("told twice", key, format!("{what}, which it has told as {}", first.id));
            }
            if let Some(contradiction) = record.contradiction(event, history) {
                self.fail("told wrongly", key, format!("{what}, but {contradiction}"));
            }
            // What was parked, and is told after a crash all the same, comes after what went past it.
            let is_parked = parked.contains(&(key.clone(), event.version.clone()));
            if last.insert(key, record.number).is_some_and(|last| last > record.number) && !is_parked {
                self.fail("out of order", key, format!("{what} after a later write"));
            }
        }
        let is_parked = |record: &Shown| {
            let version = record.version(history);
            version.is_some_and(|version| parked.contains(&(record.seen.key.clone(), version)))
        };
        let mut missing: Vec<&Shown> = records
            .values()
            .filter(|record| record.seen.region == region && record.account.is_by_app)
            .filter(|record| record.old != record.new && !by_record.contains_key(&*record.seen.sequence))
            .filter(|record| !is_parked(record))
            .collect();
        missing.sort_by_key(|record| record.number);
        for record in missing {
            let write = record.seen.new.as_ref().and_then(|image| image.write.as_deref());
            let (key, write) = (&record.seen.key, write.unwrap_or("a delete"));
            self.fail(NOT_TOLD, key, format!("{name} has not told {write}"));
        }
    }

    /// In an archive, no record is told twice.
    fn check_archive(&mut self, region: &str, events: &[Event]) {
        let mut told = BTreeSet::new();
        for event in events.iter().filter(|event| !told.insert(&event.sequence)) {
            self.fail("told again", &event.key, format!("{region} tells {} again, in an archive", event.id));
        }
    }

    /// Of each item, versions only rise, and the last one is what the first region holds.
    fn check_state(&mut self, history: &History, records: &Records, files: &Files) {
        let (region, name) = (0, &history.regions[0]);
        for other in files.states.iter().filter(|other| *other != name) {
            self.fail("told twice", "", format!("{other} tells what stands, which {name} does"));
        }
        let mut last: BTreeMap<&str, (Version, &Shown)> = BTreeMap::new();
        // What was replaced meanwhile by an older write, which is not told, and put back, is told again.
        let is_same = |first: &Event, again: &Event| (&first.key, &first.new) == (&again.key, &again.new);
        for event in self.first_told(&files.state, name, is_same) {
            self.told.states += 1;
            let (key, what) = (&event.key, format!("{name} tells the state {} {}", event.name, event.id));
            let record = records.get(&(region, event.sequence.as_str()));
            let Some((record, version)) = record.and_then(|record| Some((record, record.account.version?)))
            else {
                self.fail("made up", key, format!("{what}, but no record shows that"));
                continue;
            };
            if let Some(contradiction) = record.contradiction(event, history) {
                self.fail("told wrongly", key, format!("{what}, but {contradiction}"));
            }
            let before = last.insert(key, (version, record));
            if let Some((before, _)) = before.filter(|(before, _)| *before >= version) {
                self.fail("went back", key, format!("{what} after {}", show(history, before)));
            }
        }
        let Some(stored) = &history.stored[region] else { return };
        let keys: BTreeSet<&str> = stored.keys().map(String::as_str).chain(last.keys().copied()).collect();
        for key in keys {
            let (held, told) = (stored.get(key), last.get(key).map(|(_, record)| *record));
            let data = held.map(|image| image.data.as_str());
            if data != told.and_then(|record| record.new) {
                let told =
                    told.filter(|record| record.new.is_some()).and_then(|record| record.seen.new.as_ref());
                let [held, told] = [held, told]
                    .map(|image| image.and_then(|image| image.write.as_deref()).unwrap_or("nothing"));
                self.fail(NOT_LATEST, key, format!("{name} holds {held}, but last told {told}"));
            }
        }
    }

    /// A file's events without repetitions, which must say the same.
    fn first_told<'a>(
        &mut self,
        events: &'a [Event],
        region: &str,
        is_same: impl Fn(&Event, &Event) -> bool,
    ) -> Vec<&'a Event> {
        let mut firsts: HashMap<&str, &Event> = HashMap::new();
        let mut told = Vec::new();
        for event in events {
            let Some(first) = firsts.get(event.id.as_str()) else {
                firsts.insert(&event.id, event);
                told.push(event);
                continue;
            };
            self.told.repetitions += 1;
            if !is_same(first, event) {
                let message = format!("{region} repeats {} with something else in it", event.id);
                self.fail("told wrongly", &event.key, message);
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::judge;
    use crate::history::{AppWrite, Operation, Outcome};

    const CLOCK: u64 = 1_000 << 20;

    fn image(write: &str, stamp: Option<&str>) -> Image {
        let (write, stamp) = (Some(write.to_owned()), stamp.map(str::to_owned));
        Image { data: format!("{write:?}"), write, count: None, holder: None, stamp }
    }

    /// What Dublin's application writes, deletes and writes again, and what an agent brings to Tokyo.
    fn history() -> History {
        let regions = ["dublin", "tokyo"].map(str::to_owned).to_vec();
        let mut history = History { regions, ..History::default() };
        let put = format!("tw1 {CLOCK:016x} dublin - - 0 n");
        let mark = format!("tw1 {:016x} dublin - - x-0 n", CLOCK + 1);
        let again = format!("tw1 {:016x} dublin - - 0 n", CLOCK + 2);
        let (one, two) = (|stamp| Some(image("dublin 0", stamp)), |stamp| Some(image("dublin 2", stamp)));
        for (region, old, new) in [
            (0, None, one(None)),
            (0, one(None), None),
            (0, None, two(None)),
            (1, None, one(Some(&put))),
            (1, one(Some(&put)), one(Some(&mark))),
            (1, one(Some(&mark)), two(Some(&again))),
        ] {
            let (key, sequence) = ("k".to_owned(), history.seen.len().to_string());
            history.seen.push(Seen { region, key, sequence, at: 10, created: 1_000, old, new });
        }
        for (number, operation) in [Operation::Put, Operation::Delete, Operation::Put].into_iter().enumerate()
        {
            let (id, key) = (format!("dublin {number}"), "k".to_owned());
            let outcome = Outcome::Acknowledged;
            let write = AppWrite { id, region: 0, key, operation, outcome, count: None, sent: 1, done: 2 };
            history.writes.push(write);
        }
        let stored = BTreeMap::from([("k".to_owned(), image("dublin 2", None))]);
        history.stored = vec![Some(stored), None];
        history
    }

    fn event(number: u64, old: Option<&str>, new: Option<&str>) -> Event {
        let name = if old.is_none() { "INSERT" } else { "REMOVE" }.to_owned();
        let version = format!("{:016x} dublin", CLOCK + number);
        let (sequence, key) = (number.to_string(), "k".to_owned());
        let [old, new] = [old, new].map(|write| write.map(|write| image(write, None)));
        Event { id: format!("id {number}"), name, key, sequence, version, old, new }
    }

    /// What is right to tell.
    fn right() -> Vec<Event> {
        vec![
            event(0, None, Some("dublin 0")),
            event(1, Some("dublin 0"), None),
            event(2, None, Some("dublin 2")),
        ]
    }

    fn kinds(writes: [Vec<Event>; 2], state: Vec<Event>) -> Vec<&'static str> {
        kinds_in(Files { writes: writes.into(), state, ..Files::default() })
    }

    fn kinds_in(files: Files) -> Vec<&'static str> {
        let history = history();
        let files = Files { states: vec!["dublin".to_owned()], ..files };
        let findings = check(&history, &judge(&history, |_| false), &files);
        findings.wrong.into_iter().map(|(kind, ..)| kind).collect()
    }

    fn of_writes(events: Vec<Event>) -> Vec<&'static str> {
        kinds([events, vec![]], right())
    }

    #[test]
    fn what_is_told_right_is_right_also_when_it_is_repeated() {
        assert_eq!(of_writes(right()), [] as [&str; 0]);
        let mut again = right();
        again.insert(2, again[0].clone());
        again.insert(3, again[1].clone());
        assert_eq!(of_writes(again), [] as [&str; 0]);
    }

    #[test]
    fn what_is_told_wrong_is_noticed() {
        let changed = |change: &dyn Fn(&mut Vec<Event>)| {
            let mut events = right();
            change(&mut events);
            of_writes(events)
        };
        assert_eq!(changed(&|events| drop(events.remove(1))), ["not told"]);
        assert_eq!(changed(&|events| events.swap(0, 2)), ["out of order", "out of order"]);
        assert_eq!(changed(&|events| events[1].id = "id 0".to_owned()), ["told wrongly", "not told"]);
        assert_eq!(
            changed(
                &|events| events.push(Event { id: "id 9".to_owned(), ..event(2, None, Some("dublin 2")) })
            ),
            ["told twice"]
        );
        assert_eq!(changed(&|events| events[0].new = None), ["told wrongly"]);
        assert_eq!(changed(&|events| events[2].old = Some(image("dublin 0", None))), ["told wrongly"]);
        assert_eq!(changed(&|events| events[0].name = "MODIFY".to_owned()), ["told wrongly"]);
        assert_eq!(changed(&|events| events[0].version = "0 tokyo".to_owned()), ["told wrongly"]);
        assert_eq!(changed(&|events| events[0].new = Some(image("dublin 0", Some("tw1")))), ["told wrongly"]);
        assert_eq!(changed(&|events| events[0].sequence = "77".to_owned()), ["made up", "not told"]);
    }

    #[test]
    fn what_an_agent_has_written_is_no_write_of_an_application() {
        let echo = Event { sequence: "3".to_owned(), ..event(0, None, Some("dublin 0")) };
        let mark = Event { sequence: "4".to_owned(), ..event(1, Some("dublin 0"), None) };
        assert_eq!(kinds([right(), vec![echo]], right()), ["made up"]);
        assert_eq!(kinds([right(), vec![mark]], right()), ["made up"]);
    }

    #[test]
    fn a_key_that_is_refused_may_be_parked_and_no_other() {
        let mut told = right();
        let parked = told.remove(1);
        let of = |refused: &str, is_parked: bool| {
            let parked = is_parked.then(|| (parked.key.clone(), parked.version.clone()));
            kinds_in(Files {
                writes: vec![told.clone(), Vec::new()],
                state: right(),
                parked: vec![parked.into_iter().collect()],
                refused: vec![refused.to_owned()],
                ..Files::default()
            })
        };
        assert_eq!(of("k", true), [] as [&str; 0]);
        assert_eq!(of("k", false), [NOT_TOLD]);
        assert_eq!(of("other", true), ["parked"]);
    }

    #[test]
    fn an_archive_has_each_event_once() {
        let of = |writes: Vec<Event>| {
            let writes = vec![writes, Vec::new()];
            kinds_in(Files { writes, state: right(), is_archive: true, ..Files::default() })
        };
        assert_eq!(of(right()), [] as [&str; 0]);
        let mut again = right();
        again.push(again[2].clone());
        assert_eq!(of(again), ["told again"]);
    }

    #[test]
    fn a_state_may_be_told_again_after_an_older_write_and_never_differs() {
        let other = |old: Option<Image>, new| {
            let mut events = right();
            events.push(Event { name: "MODIFY".to_owned(), old, new, ..events[2].clone() });
            kinds([right(), vec![]], events)
        };
        let [older, same] = ["dublin 0", "dublin 2"].map(|write| Some(image(write, None)));
        assert_eq!(other(older.clone(), same), [] as [&str; 0]);
        assert_eq!(other(None, older), ["told wrongly"]);
    }

    #[test]
    fn a_state_never_goes_back_and_ends_with_what_stands() {
        let state = |events| kinds([right(), vec![]], events);
        let [first, second, third] = [0, 1, 2].map(|number| right()[number].clone());
        assert_eq!(state(vec![third.clone()]), [] as [&str; 0]);
        assert_eq!(state(vec![second.clone(), first.clone(), third]), ["went back"]);
        assert_eq!(state(vec![first, second]), ["not the latest"]);
    }
}
