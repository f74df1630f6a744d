//! The protocol as tables: records of one key in, verdicts and writes out.
//!
//! The agent is that of region `a`. Times are seconds. An image is written `-` (absent), `x` (an
//! item with this data), `x 5b` (with a stamp of that version), `x 5b kept` (a stamp of other
//! data), `x 5b mark`, `. 5b mark` (a bare mark) or `x junk` (no agent's stamp); `#7` gives the
//! stamp a nonce, `@c` has it set in region `c`, `<3c` is its base; with `<3-` it is a seed of hold 3.
//! `5.1b` is one above `5b`.

use std::fmt::Write as _;
use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;

use super::stamp::StampKind;
use super::*;

fn hlc(text: &str) -> Hlc {
    let (seconds, above) = text.split_once('.').unwrap_or((text, "0"));
    let mut hlc = Hlc::at_millis(seconds.parse::<u64>().expect("seconds") * 1000);
    for _ in 0..above.parse::<u64>().expect("a counter") {
        hlc = hlc.next();
    }
    hlc
}

fn version(text: &str) -> Version {
    let (clock, name) = text.split_at(text.len() - 1);
    Version { hlc: hlc(clock), origin: origin(name) }
}

fn origin(name: &str) -> Origin {
    if name == "-" { Origin::seeding() } else { name.parse().expect("a region") }
}

fn show(version: &Version) -> String {
    let above = u64::from(version.hlc) - u64::from(Hlc::at_millis(version.hlc.millis()));
    let seconds = version.hlc.millis() / 1000;
    if above == 0 {
        format!("{seconds}{}", version.origin)
    } else {
        format!("{seconds}.{above}{}", version.origin)
    }
}

fn key() -> Item {
    Item::from([("pk".to_owned(), AttributeValue::S("k".to_owned()))])
}

fn item(data: &str) -> Item {
    let mut item = key();
    if data != "." {
        item.insert("d".to_owned(), AttributeValue::S(data.to_owned()));
    }
    item
}

fn image(text: &str) -> Option<Item> {
    let mut words = text.split_whitespace();
    let mut item = match words.next()? {
        "-" => return None,
        data => item(data),
    };
    let Some(stamp) = words.next() else { return Some(item) };
    if stamp == "junk" {
        item.insert(STAMP.to_owned(), AttributeValue::N("7".to_owned()));
        return Some(item);
    }
    let version = version(stamp);
    let write = |base, body| super::Write {
        key: key(),
        version: version.clone(),
        base,
        body,
        replaced: None,
        home: None,
    };
    let (mut region, mut number, mut base) = ("a", u64::from(version.hlc), None);
    let mut body = Body::Put(Item::new().into(), Fingerprint::of(&item));
    for word in words {
        match (word, word.split_at(1)) {
            ("kept", _) => body = Body::Put(Item::new().into(), Fingerprint::of(&Item::new())),
            ("mark", _) => body = Body::Delete,
            (_, ("#", digits)) => number = digits.parse().expect("a number"),
            (_, ("@", name)) => region = name,
            (_, ("<", below)) => base = Some(super::tests::version(below)),
            _ => unreachable!("{word}?"),
        }
    }
    let nonce = Nonce::new(&region.parse().expect("a region"), number);
    let stamp = write(base, body).stamp(nonce, &Guard::Exactly(&item));
    item.insert(STAMP.to_owned(), AttributeValue::S(stamp.to_string()));
    Some(item)
}

fn data(item: &Item) -> &str {
    item.get("d").map_or(".", |value| value.as_s().expect("text"))
}

fn stamp_text(stamp: Option<&AttributeValue>) -> String {
    match stamp {
        None => "nothing".to_owned(),
        Some(AttributeValue::S(text)) => text.split(' ').nth(1).map_or("?", |_| "its stamp").to_owned(),
        Some(_) => "junk".to_owned(),
    }
}

fn show_write(write: &super::Write) -> String {
    let mut text = match &write.body {
        Body::Put(item, fingerprint) => {
            assert!(!item.contains_key(STAMP), "a write carries no stamp of its own");
            assert_eq!(*fingerprint, Fingerprint::of(item));
            format!("{} as {}", data(item), show(&write.version))
        }
        Body::Delete => format!("delete as {}", show(&write.version)),
    };
    if let Some(base) = &write.base {
        let _ = write!(text, " on {}", show(base));
    }
    text
}

fn show_judgement(judgement: &Judgement) -> String {
    let mut text = match judgement.verdict {
        Verdict::Unchanged => "unchanged",
        Verdict::LocalPut => "local put",
        Verdict::LocalDelete => "local delete",
        Verdict::EchoPut => "echo put",
        Verdict::EchoMark => "echo mark",
        Verdict::EchoDelete => "echo delete",
    }
    .to_owned();
    for action in &judgement.actions {
        let _ = match action {
            Action::Push(write) => write!(text, "; push {}", show_write(write)),
            Action::Heal(write, _) => write!(text, "; heal {}", show_write(write)),
            Action::Restamp(write) => {
                let beside = write.home.as_ref().expect("an item stands at home").beside.as_ref();
                write!(text, "; stamp {} over {}", show_write(write), stamp_text(beside))
            }
            Action::ApplyDelete { key: carried, marked } => {
                assert_eq!(*carried, key());
                let mark = marked[STAMP].as_s().expect("a stamp");
                write!(text, "; apply delete {}", mark.split(' ').nth(2).expect("an origin"))
            }
        };
    }
    if let Some(conflict) = &judgement.conflict {
        let side = |item: &Option<Item>| item.as_ref().map_or("-".to_owned(), |item| data(item).to_owned());
        let _ = write!(
            text,
            "; conflict {} ({}) lost to {} ({})",
            show(&conflict.lost),
            side(&conflict.loser),
            show(&conflict.won),
            side(&conflict.winner)
        );
    }
    text
}

/// One agent, and the steps that it is taken through.
struct Table {
    memory: KeyMemory,
    floors: Floors,
    ordinal: u64,
    stamp_in_place: bool,
}

impl Table {
    fn new() -> Self {
        let memory = KeyMemory::new("a".parse().expect("a region"));
        Self { memory, floors: Floors::default(), ordinal: 0, stamp_in_place: false }
    }

    fn step(&mut self, step: &str) -> String {
        if let Some(floors) = step.strip_prefix("floors") {
            for floor in floors.split_whitespace() {
                let (origin, seconds) = floor.split_once('=').expect("origin=seconds");
                self.floors.raise(&super::tests::origin(origin), hlc(seconds));
            }
            return String::new();
        }
        match step {
            "stamp in place" => {
                self.stamp_in_place = true;
                return String::new();
            }
            "forget" => {
                self.memory.forget(&["b".parse().expect("a region")], &self.floors, None);
                return format!("{} known", self.memory.len());
            }
            "oldest" => {
                return self.memory.oldest().map_or_else(|| "none".to_owned(), |oldest| oldest.to_string());
            }
            "restart" => {
                *self = Self { floors: self.floors.clone(), ..Self::new() };
                return String::new();
            }
            _ => {}
        }
        show_judgement(&self.judge(step))
    }

    fn judge(&mut self, step: &str) -> Judgement {
        let (seconds, change) = step.split_once(": ").expect("seconds: old -> new");
        let (old, new) = change.split_once(" -> ").expect("old -> new");
        let record = Record {
            created_millis: seconds.parse::<u64>().expect("seconds") * 1000,
            key: key(),
            old: image(old),
            new: image(new),
        };
        let judgement = self.memory.judge(self.ordinal, record, &self.floors, self.stamp_in_place);
        self.ordinal += 1;
        judgement
    }
}

fn check(name: &str, rows: &[(&str, &str)]) {
    let mut table = Table::new();
    for (step, expected) in rows {
        assert_eq!(table.step(step), *expected, "{name}: {step}");
    }
}

fn check_each(rows: &[(&str, &str)]) {
    for (step, expected) in rows {
        check(step, &[(step, expected)]);
    }
}

#[test]
fn whose_write_a_single_record_shows() {
    check_each(&[
        ("9: x -> x", "unchanged"),
        ("9: - -> -", "unchanged"),
        ("9: x 5b -> x 5b", "unchanged"),
        // An application's.
        ("9: - -> x", "local put; push x as 9a"),
        ("9: x -> y", "local put; push y as 9a"),
        ("9: x -> -", "local delete; push delete as 9a"),
        ("9: x 5b -> y", "local put; push y as 9a on 5b"),
        ("9: x 5b -> y 5b kept", "local put; push y as 9a on 5b"),
        ("9: x 5b kept -> y 5b kept", "local put; push y as 9a"),
        ("9: x 5b -> -", "local delete; push delete as 9a on 5b"),
        // Replicated.
        ("9: - -> x 5b", "echo put"),
        ("9: x -> y 5b", "echo put"),
        ("9: x 4b -> y 5b", "echo put"),
        ("9: x 4b kept -> y 5b", "echo put"),
        ("9: x junk -> y 5b", "echo put"),
        ("9: x 4b -> x 5b mark", "echo mark; apply delete b"),
        ("9: x -> x 5b mark", "echo mark; apply delete b"),
        ("9: - -> . 5b mark", "echo mark; apply delete b"),
        ("9: x 5b mark -> -", "echo delete"),
        ("9: . 5b mark -> -", "echo delete"),
        ("9: x 5b mark -> y 6b", "echo put"),
    ]);
}

#[test]
fn a_stamp_that_no_agent_can_have_put_there_is_an_applications() {
    check_each(&[
        // An old copy, over a newer or equal stamp. It is stamped again, or it would look like what it copies.
        ("9: x 6b -> y 5b", "local put; stamp y as 9a on 6b over its stamp; push y as 9a on 6b"),
        ("9: x 5b -> y 5b", "local put; stamp y as 9a on 5b over its stamp; push y as 9a on 5b"),
        // A mark that came with other data, with nothing to keep, or over a newer stamp.
        ("9: x -> y 5b mark", "local put; stamp y as 9a over its stamp; push y as 9a"),
        ("9: - -> x 5b mark", "local put; stamp x as 9a over its stamp; push x as 9a"),
        ("9: x 6b -> x 5b mark", "local put; stamp x as 9a on 6b over its stamp; push x as 9a on 6b"),
        // Not a stamp.
        ("9: x -> y junk", "local put; stamp y as 9a over junk; push y as 9a"),
        ("9: x junk -> x", "local put; push x as 9a"),
        ("9: x junk -> -", "local delete; push delete as 9a"),
    ]);
}

#[test]
fn an_own_stamp_is_a_heal_or_a_stamp_in_place_or_a_put_back() {
    check_each(&[
        // The agent heals over lower stamps, and stamps what is stored there as it is.
        ("9: x 4b -> y 5a", "echo put"),
        ("9: x 4b mark -> y 5a", "echo put"),
        ("9: x 4b -> x 5a mark", "echo mark; apply delete a"),
        ("9: x -> x 5a", "echo put"),
        ("9: x junk -> x 5a", "echo put"),
        // Nothing else.
        ("9: - -> x 5a", "local put; stamp x as 9a over its stamp; push x as 9a"),
        ("9: y -> x 5a", "local put; stamp x as 9a over its stamp; push x as 9a"),
        ("9: y 4b kept -> x 5a", "local put; stamp x as 9a over its stamp; push x as 9a"),
        ("9: x -> x 5a mark", "local put; stamp x as 9a over its stamp; push x as 9a"),
        ("9: - -> . 5a mark", "local put; stamp . as 9a over its stamp; push . as 9a"),
    ]);
}

#[test]
fn a_version_is_above_all_that_the_record_shows() {
    check_each(&[
        ("9: x 20b -> y", "local put; push y as 20.1a on 20b"),
        ("9: x 20b -> -", "local delete; push delete as 20.1a on 20b"),
        ("9: x 20b -> y 20b kept", "local put; push y as 20.1a on 20b"),
        ("9: x -> y 20b kept", "local put; push y as 20.1a"),
        ("9: x 20b -> y 30b kept", "local put; push y as 30.1a on 20b"),
        (
            "9: x 20b mark -> y 20b mark",
            "local put; stamp y as 20.1a on 20b over its stamp; push y as 20.1a on 20b",
        ),
    ]);
}

#[test]
fn a_version_is_above_all_that_the_stream_has_shown() {
    check(
        "a chain of unstamped writes",
        &[
            ("9: x 20b -> y", "local put; push y as 20.1a on 20b"),
            ("9: y -> z", "local put; push z as 20.2a on 20.1a"),
            ("9: z -> -", "local delete; push delete as 20.3a on 20.2a"),
            ("9: - -> w", "local put; push w as 20.4a on 20.3a"),
            ("30: w -> v", "local put; push v as 30a on 20.4a"),
        ],
    );
    check(
        "a replicated delete counts too",
        &[
            ("9: x 4b -> x 20b mark", "echo mark; apply delete b"),
            ("9: x 20b mark -> -", "echo delete"),
            ("9: - -> y", "local put; push y as 20.1a on 20b"),
        ],
    );
    check(
        "an update between mark and delete",
        &[
            ("9: x 4b -> x 20b mark", "echo mark; apply delete b"),
            (
                "9: x 20b mark -> y 20b mark",
                "local put; stamp y as 20.1a on 20b over its stamp; push y as 20.1a on 20b",
            ),
            ("9: y 20b mark -> -", "local delete; push delete as 20.2a on 20b"),
        ],
    );
}

#[test]
fn an_older_replicated_write_is_healed_once() {
    check(
        "over a put",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> y 5b", "echo put; heal x as 9a"),
            ("9: y 5b -> z 6b", "echo put"),
            ("9: z 6b -> x 9a", "echo put"),
            ("9: x 9a -> y", "local put; push y as 9.1a on 9a"),
        ],
    );
    check(
        "over an update that kept its stamp",
        &[
            ("9: x 4b -> y 4b kept", "local put; push y as 9a on 4b"),
            ("9: y 4b kept -> z 5b", "echo put; heal y as 9a"),
        ],
    );
    check(
        "a put over a delete",
        &[
            ("9: x -> -", "local delete; push delete as 9a"),
            ("9: - -> y 5b", "echo put; heal delete as 9a"),
            ("9: y 5b -> y 9a mark", "echo mark; apply delete a"),
            ("9: y 9a mark -> -", "echo delete"),
        ],
    );
    check(
        "a mark over a put",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> x 5b mark", "echo mark; heal x as 9a"),
            ("9: x 5b mark -> -", "local delete; push delete as 9.1a on 5b"),
        ],
    );
    check(
        "a mark over a delete leaves but the mark",
        &[
            ("9: x -> -", "local delete; push delete as 9a"),
            ("9: - -> . 5b mark", "echo mark; apply delete b"),
            ("9: . 5b mark -> -", "echo delete"),
            ("9: - -> y", "local put; push y as 9.1a on 9a"),
        ],
    );
    check(
        "an update of the older write",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> y 5b", "echo put; heal x as 9a"),
            ("9: y 5b -> z 5b kept", "local put; push z as 9.1a on 5b"),
            // No heal by an agent replaces that.
            (
                "9: z 5b kept -> x 9a",
                "local put; stamp x as 9.2a on 9.1a over its stamp; push x as 9.2a on 9.1a",
            ),
        ],
    );
    check(
        "of equal clocks, the higher region wins",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> y 9b", "echo put; conflict 9a (x) lost to 9b (y)"),
            ("9: y 9b -> z", "local put; push z as 9.1a on 9b"),
        ],
    );
}

#[test]
fn what_is_put_back_is_an_applications() {
    check(
        "while its nonce is known",
        &[
            ("9: x 5b -> y", "local put; push y as 9a on 5b"),
            ("9: y -> x 5b", "local put; stamp x as 9.1a on 9a over its stamp; push x as 9.1a on 9a"),
        ],
    );
    check(
        "another write of the same version is not",
        &[
            ("9: x 5b -> y", "local put; push y as 9a on 5b"),
            ("9: y -> x 5b #1", "echo put; heal y as 9a"),
            ("9: x 5b #1 -> x 5b #1", "unchanged"),
            ("9: x 5b #1 -> y", "local put; push y as 9.1a on 5b"),
            ("9: y -> x 5b #1", "local put; stamp x as 9.2a on 9.1a over its stamp; push x as 9.2a on 9.1a"),
        ],
    );
    check(
        "a mark",
        &[
            ("9: x -> x 5b mark", "echo mark; apply delete b"),
            ("9: x 5b mark -> -", "echo delete"),
            ("9: - -> . 5b mark", "local put; stamp . as 9a on 5b over its stamp; push . as 9a on 5b"),
        ],
    );
    check(
        "a mark over a newer delete",
        &[
            ("9: x -> -", "local delete; push delete as 9a"),
            ("9: - -> . 5b mark", "echo mark; apply delete b"),
            ("9: . 5b mark -> -", "echo delete"),
            ("9: - -> . 5b mark", "local put; stamp . as 9.1a on 9a over its stamp; push . as 9.1a on 9a"),
        ],
    );
    check(
        "a copy of what was healed",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> y 5b", "echo put; heal x as 9a"),
            ("9: y 5b -> z 5b kept", "local put; push z as 9.1a on 5b"),
            ("9: z 5b kept -> -", "local delete; push delete as 9.2a on 9.1a"),
            ("9: - -> y 5b", "local put; stamp y as 9.3a on 9.2a over its stamp; push y as 9.3a on 9.2a"),
        ],
    );
}

#[test]
fn a_seed_that_is_put_back_is_an_applications() {
    // The floors passed its version long ago.
    for hold in ["floors b=99", "floors -=5", "floors -=6"] {
        check(
            hold,
            &[
                ("floors b=99", ""),
                ("199: - -> x 3b <5-", "echo put"),
                ("200: x 3b <5- -> y", "local put; push y as 200a on 3b"),
                (hold, ""),
                ("forget", "1 known"),
                (
                    "200: y -> x 3b <5-",
                    "local put; stamp x as 200.1a on 200a over its stamp; push x as 200.1a on 200a",
                ),
            ],
        );
    }
    check(
        "and one that is late is none, until its hold is over",
        &[
            ("200: - -> y", "local put; push y as 200a"),
            ("floors b=99 -=5", ""),
            ("200: y -> x 3b <5-", "echo put; heal y as 200a"),
            ("floors -=6", ""),
            (
                "201: x 3b <5- -> x 3b <5- #1",
                "local put; stamp x as 201a on 3b over its stamp; push x as 201a on 3b",
            ),
        ],
    );
}

#[test]
fn a_copy_is_told_by_its_nonce_and_then_by_the_floors() {
    check(
        "until the floors say that it can't come a second time, and from then on by them",
        &[
            ("9: x 5b -> y", "local put; push y as 9a on 5b"),
            ("9009: y -> z", "local put; push z as 9009a on 9a"),
            ("floors b=66", ""),
            ("forget", "1 known"),
            (
                "9009: z -> x 5b",
                "local put; stamp x as 9009.1a on 9009a over its stamp; push x as 9009.1a on 9009a",
            ),
        ],
    );
    check(
        "after it was replaced by what is replicated",
        &[
            ("9: - -> x 5b", "echo put"),
            ("9: x 5b -> y 6b", "echo put"),
            ("9: y 6b -> y 7b mark", "echo mark; apply delete b"),
            ("9: y 7b mark -> -", "echo delete"),
            ("29: - -> x 5b", "local put; stamp x as 29a on 7b over its stamp; push x as 29a on 7b"),
            ("29: x 5b -> -", "local delete; push delete as 29.1a on 5b"),
            (
                "29: - -> y 6b",
                "local put; stamp y as 29.2a on 29.1a over its stamp; push y as 29.2a on 29.1a",
            ),
        ],
    );
    check(
        "a heal with another region's version is none, whatever the floors say",
        &[
            ("9: x 5b -> x 7b mark", "echo mark; apply delete b"),
            ("9: x 7b mark -> -", "echo delete"),
            ("9: - -> y 6c", "echo put; heal delete as 7b"),
            ("floors b=99", ""),
            ("9: y 6c -> y 7b mark #1", "echo mark; apply delete b"),
        ],
    );
    check(
        "of this region's own version, by the own floor, unless a heal of that version was asked for",
        &[
            ("9: x -> x 9a", "echo put"),
            ("floors a=70", ""),
            ("80: x 9a -> -", "local delete; push delete as 80a on 9a"),
            ("80: - -> y 5b", "echo put; heal delete as 80a"),
            ("80: y 5b -> x 9a", "local put; stamp x as 80.1a on 5b over its stamp; push x as 80.1a on 5b"),
        ],
    );
    check(
        "an older heal that comes after a newer one was asked for is none",
        &[
            ("9: x -> -", "local delete; push delete as 9a"),
            ("floors a=70", ""),
            ("80: - -> y 5b", "echo put; heal delete as 9a"),
            ("81: y 5b -> z", "local put; push z as 81a on 5b"),
            ("82: z -> -", "local delete; push delete as 82a on 81a"),
            ("83: - -> y 6b", "echo put; heal delete as 82a"),
            ("84: y 6b -> y 9a mark #9", "echo mark"),
            // Once it must have come, it does not come again.
            ("floors a=150", ""),
            ("forget", "1 known"),
            (
                "160: y 6b -> y 9a mark #8",
                "local put; stamp y as 160a on 6b over its stamp; push y as 160a on 6b",
            ),
        ],
    );
    check(
        "of this region's own version, over the same data, if that waits for its heal",
        &[
            ("9: x -> x 9a", "echo put"),
            ("floors a=70", ""),
            ("80: x 9a -> y", "local put; push y as 80a on 9a"),
            ("80: y -> x 5b", "echo put; heal y as 80a"),
            ("80: x 5b -> x 9a", "local put; stamp x as 80.1a on 5b over its stamp; push x as 80.1a on 5b"),
        ],
    );
    check(
        "of a key that was forgotten, by the floors",
        &[
            ("9: x 5b -> y", "local put; push y as 9a on 5b"),
            ("floors a=100 b=100", ""),
            ("forget", "0 known"),
            ("99: y -> x 5b", "local put; stamp x as 99a over its stamp; push x as 99a"),
        ],
    );
    check("of which the floors say nothing", &[("floors b=65", ""), ("99: - -> x 5b", "echo put")]);
    check(
        "of which the floors say that it is here",
        &[("floors b=66", ""), ("99: - -> x 5b", "local put; stamp x as 99a over its stamp; push x as 99a")],
    );
    check("the floors of others don't count", &[("floors a=99 c=99", ""), ("99: - -> x 5b", "echo put")]);
}

#[test]
fn sixty_four_nonces_are_known_a_key() {
    let mut table = Table::new();
    table.step("9: - -> x");
    for n in 0..65 {
        assert_eq!(
            table.step(&format!("9: x -> y 5b #{n}")),
            if n == 0 { "echo put; heal x as 9a" } else { "echo put" }
        );
    }
    assert_eq!(table.step("9: x -> y 5b #0"), "echo put");
    assert_eq!(table.step("9: x -> y 5b #2").split(';').next(), Some("local put"));
}

#[test]
fn a_conflict_is_a_winner_that_was_not_made_on_top() {
    check(
        "of a put",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> y 10b", "echo put; conflict 9a (x) lost to 10b (y)"),
        ],
    );
    check(
        "a successor is none",
        &[("9: - -> x", "local put; push x as 9a"), ("9: x -> y 10b <9a", "echo put")],
    );
    check(
        "of another one's write there is none here",
        &[("9: x 4b -> x 8b mark", "echo mark; apply delete b"), ("9: x 8b mark -> y 10c", "echo put")],
    );
    check(
        "an own version wins none",
        &[("9: - -> x", "local put; push x as 9a"), ("9: x -> x 9a", "echo put")],
    );
    check(
        "with a delete",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> x 10b mark", "echo mark; apply delete b; conflict 9a (x) lost to 10b (-)"),
        ],
    );
    check(
        "of a delete",
        &[
            ("9: x -> -", "local delete; push delete as 9a"),
            ("9: - -> y 10b", "echo put; conflict 9a (-) lost to 10b (y)"),
        ],
    );
    check(
        "of what a third write replaced already",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> y 5b", "echo put; heal x as 9a"),
            ("9: y 5b -> z 10b", "echo put; conflict 9a (-) lost to 10b (z)"),
        ],
    );
    check_each(&[
        // For an own write that states its version itself, without memory.
        ("9: x 5a -> y 10b", "echo put; conflict 5a (x) lost to 10b (y)"),
        ("9: x 5a -> x 10b mark", "echo mark; apply delete b; conflict 5a (x) lost to 10b (-)"),
        ("9: x 5a -> y 10b <5a", "echo put"),
        ("9: x 5a kept -> y 10b", "echo put"),
        ("9: x 5c -> y 10b", "echo put"),
        ("9: x 5a -> y 10a", "echo put"),
    ]);
}

#[test]
fn a_write_is_stamped_in_place_where_memory_would_not_do() {
    check(
        "put and update, not delete",
        &[
            ("stamp in place", ""),
            ("9: - -> x", "local put; stamp x as 9a over nothing; push x as 9a"),
            ("9: x -> x 9a", "echo put"),
            ("oldest", "none"),
            ("9: x 9a -> y 9a kept", "local put; stamp y as 9.1a on 9a over its stamp; push y as 9.1a on 9a"),
            ("9: y 9a kept -> y 9.1a", "echo put"),
            ("9: y 9.1a -> -", "local delete; push delete as 9.2a on 9.1a"),
        ],
    );
}

#[test]
fn a_stamp_beside_newer_data_tells_nothing_though_it_is_the_same_data() {
    check(
        "and so asks for no heal",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> y", "local put; push y as 9.1a on 9a"),
            ("9: y -> x", "local put; push x as 9.2a on 9.1a"),
            ("9: x -> x 9a", "unchanged"),
            ("9: x 9a -> x 9.1a kept", "unchanged"),
            ("9: x 9.1a kept -> x 9.2a", "echo put"),
            ("forget", "1 known"),
        ],
    );
    check(
        "where it replaces other data, it does",
        &[("9: - -> x", "local put; push x as 9a"), ("9: x -> y 5b", "echo put; heal x as 9a")],
    );
}

#[test]
fn a_key_is_forgotten_when_every_region_has_its_version_and_a_minute_has_passed() {
    let put = ("9: - -> x", "local put; push x as 9a");
    for (floors, known) in [
        ("floors a=70 b=70", "0 known"),
        ("floors a=69 b=70", "1 known"),
        ("floors a=70 b=69", "1 known"),
        ("floors a=70", "1 known"),
        ("floors b=70", "1 known"),
        ("floors a=70 b=70 c=9", "0 known"),
    ] {
        check(floors, &[put, (floors, ""), ("forget", known)]);
    }
    check(
        "but not while it may be healed",
        &[
            put,
            ("50: x -> y 5b", "echo put; heal x as 9a"),
            ("floors a=110 b=999", ""),
            ("forget", "1 known"),
            ("99: y 5b -> x 9a", "echo put"),
            ("forget", "1 known"),
            ("floors a=111", ""),
            ("forget", "0 known"),
        ],
    );
    check(
        "nor for ever, when the heal has not shown though all that was to be done is",
        &[
            put,
            ("50: x -> y 5b", "echo put; heal x as 9a"),
            ("floors a=111 b=999", ""),
            ("forget", "0 known"),
        ],
    );
    check(
        "a delete",
        &[("9: x -> -", "local delete; push delete as 9a"), ("floors a=70 b=70", ""), ("forget", "0 known")],
    );
    check("an image that says what it is", &[("9: - -> x 5b", "echo put"), ("forget", "0 known")]);
    let mut table = Table::new();
    assert!(table.memory.is_empty());
    table.step(put.0);
    assert!(!table.memory.is_empty());
}

#[test]
fn a_verdict_is_local_or_an_echo_or_neither() {
    let verdicts = [
        (Verdict::Unchanged, (false, false)),
        (Verdict::LocalPut, (true, false)),
        (Verdict::LocalDelete, (true, false)),
        (Verdict::EchoPut, (false, true)),
        (Verdict::EchoMark, (false, true)),
        (Verdict::EchoDelete, (false, true)),
    ];
    for (verdict, expected) in verdicts {
        assert_eq!((verdict.is_local(), verdict.is_echo()), expected, "{verdict:?}");
    }
}

#[test]
fn floors_rise_and_meet() {
    let (a, b): (Origin, Origin) = ("a".parse().expect("a region"), "b".parse().expect("a region"));
    let (mut low, mut high) = (Floors::default(), Floors::default());
    low.raise(&a, hlc("5"));
    low.raise(&a, hlc("3"));
    high.raise(&a, hlc("9"));
    high.raise(&b, hlc("4"));
    assert_eq!((low.get(&a), low.get(&b)), (hlc("5"), Hlc::ZERO));
    assert_eq!(high.iter().collect::<Vec<_>>(), [(&a, hlc("9")), (&b, hlc("4"))]);
    for met in [low.meet(&high), high.meet(&low)] {
        assert_eq!((met.get(&a), met.get(&b)), (hlc("5"), Hlc::ZERO));
    }
    low.raise_all(&high);
    assert_eq!(low, high);
}

#[test]
fn a_time_far_ahead_is_not_believed() {
    let now = 100_000;
    for (millis, expected) in [(0, true), (now, true), (now + 30_000, true), (now + 30_001, false)] {
        assert_eq!(is_credible(millis, now), expected, "{millis}");
    }
    let mut floors = Floors::default();
    // A seeder's floor is no time.
    for (region, floor) in [("a", "90"), ("b", "130"), ("c", "131"), ("-", "131")] {
        floors.raise(&origin(region), hlc(floor));
    }
    let credible = floors.credible(now);
    for (region, floor) in [("a", hlc("90")), ("b", hlc("130")), ("c", Hlc::ZERO), ("-", hlc("131"))] {
        assert_eq!(credible.get(&origin(region)), floor, "{region}");
    }
}

#[test]
fn a_judgement_tells_what_it_rests_on() {
    // The floors, a record, and whether it is a seed, or a put-back by the floors alone.
    for (floors, record, is_seed, by_floors) in [
        ("floors", "99: - -> x", false, false),
        ("floors", "99: - -> x 5b", false, false),
        ("floors b=66", "99: - -> x 5b", false, true),
        ("floors b=66", "99: - -> x 5b @c", false, false),
        ("floors -=5", "99: - -> x 3b <5-", true, false),
        ("floors -=6", "99: - -> x 3b <5-", false, true),
    ] {
        let mut table = Table::new();
        table.step(floors);
        let judgement = table.judge(record);
        assert_eq!((judgement.is_seed, judgement.by_floors), (is_seed, by_floors), "{floors}, {record}");
    }
}

#[test]
fn the_keys_with_the_lowest_versions_are_set_aside() {
    let mut memory = KeyMemory::new(origin("a"));
    let key = |name: &str| Item::from([("pk".to_owned(), AttributeValue::S(name.to_owned()))]);
    for (ordinal, (name, created_millis)) in (0..).zip([("p", 9_000), ("q", 7_000), ("r", 8_000)]) {
        let record = Record { created_millis, key: key(name), old: None, new: Some(key(name)) };
        memory.judge(ordinal, record, &Floors::default(), false);
    }
    let known = |memory: &KeyMemory| ["p", "q", "r"].map(|name| memory.knows(&KeyId::of(&key(name))));
    let aside = memory.set_aside(2);
    assert_eq!(known(&memory), [true, false, false]);
    for (key, state) in aside {
        memory.put_back(key, state);
    }
    assert_eq!(known(&memory), [true; 3]);
}

#[test]
fn nothing_is_forgotten_before_a_hold_is_over() {
    let mut floors = Floors::default();
    floors.raise(&Origin::seeding(), Hlc::from(4));
    for (hold, forgets) in [(None, true), (Some(3), true), (Some(4), false), (Some(5), false)] {
        let sweep = KeyMemory::new(origin("a")).forget(&[origin("b")], &floors, hold);
        assert_eq!(sweep.is_some(), forgets, "{hold:?}");
    }
}

#[test]
fn a_rebuild_starts_where_an_empty_memory_judges_the_same() {
    check(
        "a chain within one second",
        &[
            ("oldest", "none"),
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> y", "local put; push y as 9.1a on 9a"),
            ("oldest", "0"),
            ("10: y -> z", "local put; push z as 10a on 9.1a"),
            ("oldest", "2"),
        ],
    );
    check(
        "a version ahead of the time",
        &[
            ("9: x 20b -> y", "local put; push y as 20.1a on 20b"),
            ("20: y -> z", "local put; push z as 20.2a on 20.1a"),
            ("oldest", "0"),
        ],
    );
    check(
        "a nonce holds it back",
        &[
            ("9: x 5b -> y", "local put; push y as 9a on 5b"),
            ("10: y -> z", "local put; push z as 10a on 9a"),
            ("oldest", "0"),
            ("floors b=66", ""),
            ("forget", "1 known"),
            ("oldest", "1"),
        ],
    );
    check(
        "what only memory tells from an echo",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> x 5b mark", "echo mark; heal x as 9a"),
            ("10: x 5b mark -> -", "local delete; push delete as 10a on 5b"),
            ("oldest", "0"),
        ],
    );
    check(
        "a replicated mark",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> x 9b mark", "echo mark; apply delete b; conflict 9a (x) lost to 9b (-)"),
            ("oldest", "1"),
        ],
    );
}

#[test]
fn a_queued_write_does_for_the_one_that_it_was_made_on_top_of() {
    let push = |version_of: &str, base: Option<&str>, body: Body| {
        let (key, base) = (key(), base.map(version));
        let replaced = base.as_ref().map(|version| Arc::new(item(version.origin.as_str())));
        Action::Push(super::Write { key, version: version(version_of), base, body, replaced, home: None })
    };
    let put = || Body::Put(Arc::new(item("x")), Fingerprint::of(&item("x")));
    for (older, newer) in [(put(), put()), (put(), Body::Delete), (Body::Delete, put())] {
        let before = push("7a", Some("5b"), older);
        let mut action = push("9a", Some("7a"), newer.clone());
        assert!(action.coalesce(&before));
        assert_eq!(action, push("9a", Some("5b"), newer.clone()), "it replaces what the other replaced");
        // Something came between the two.
        for base in [None, Some("8b"), Some("5b")] {
            let mut action = push("9a", base, newer.clone());
            assert!(!action.coalesce(&before));
            assert_eq!(action, push("9a", base, newer.clone()), "it is as it was");
        }
    }
    let write = super::Write {
        key: key(),
        version: version("7a"),
        base: None,
        body: put(),
        replaced: None,
        home: None,
    };
    let mut action = push("9a", Some("7a"), put());
    assert!(
        !action.coalesce(&Action::Heal(write.clone(), Past::default()))
            && !action.coalesce(&Action::Restamp(write.clone()))
    );
    assert!(
        !Action::Heal(write.clone(), Past::default()).coalesce(&Action::Push(write)),
        "what is done here is all done"
    );
}

/// The last action of a kind that records ask for.
fn action(record: &str, kind: &str) -> Action {
    let (mut table, mut last) = (Table::new(), None);
    // A heal needs something to heal.
    for step in record.split("; ") {
        if step.starts_with("floors") {
            table.step(step);
            continue;
        }
        let is_asked = |action: &Action| match action {
            Action::Push(_) => kind == "push",
            Action::Heal(..) => kind == "heal",
            Action::Restamp(_) => kind == "stamp",
            Action::ApplyDelete { .. } => kind == "apply delete",
        };
        last = table.judge(step).actions.into_iter().find(is_asked).or(last);
    }
    last.unwrap_or_else(|| unreachable!("{record} asks for no {kind}"))
}

#[test]
fn each_action_tells_its_key_and_the_write_that_it_makes() {
    // A record, the kind of action that it asks for, and the write that the action makes.
    for (record, kind, makes) in [
        ("9: x 5b -> y", "push", Some("y as 9a on 5b")),
        ("9: x 5b -> -", "push", Some("delete as 9a on 5b")),
        ("9: - -> x; 9: x -> y 5b", "heal", Some("x as 9a")),
        ("9: x 6b -> y 5b", "stamp", Some("y as 9a on 6b")),
        ("9: x -> x 5b mark", "apply delete", None),
    ] {
        let action = action(record, kind);
        assert_eq!(*action.key(), key(), "{kind} of {record:?}");
        assert_eq!(action.write().map(show_write).as_deref(), makes, "{kind} of {record:?}");
    }
}

/// The result of an action in a region where this is stored.
fn meets(action: &Action, to: &str, stored: &str) -> &'static str {
    // What an agent wrote there has a nonce of that region.
    let is_elsewheres =
        stored.contains('@') || stored.ends_with("junk") || stored.split_whitespace().count() < 2;
    let stored = if is_elsewheres { stored.to_owned() } else { format!("{stored} @{to}") };
    let stored = image(&stored);
    let to = to.parse().expect("a region");
    if action.guard(&to).holds(stored.as_ref()) {
        return "made";
    }
    match action.next(&to, stored.as_ref()) {
        Next::Superseded => "superseded",
        Next::Again => "made at the second try",
        Next::Contended => "contended",
    }
}

/// A record, what it asks for, the region where that is done, and the result over each thing that may be
/// stored there.
type Meetings = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

fn assert_meetings(meetings: &[Meetings]) {
    for (record, kind, to, cases) in meetings {
        let action = action(record, kind);
        for (stored, expected) in *cases {
            let met = meets(&action, to, stored);
            assert_eq!(met, *expected, "{kind} of {record:?} in {to} over {stored:?}");
        }
    }
}

#[test]
fn a_push_replaces_nothing_that_its_maker_has_not_seen() {
    assert_meetings(&[
        (
            "9: x 5b -> y",
            "push",
            "c",
            &[
                // What it replaced at its origin, with the version that this has.
                ("x 5b", "made"),
                ("x 5b #7 <3a", "made"),
                ("x", "contended"),
                ("x 5c kept", "contended"),
                ("x junk", "contended"),
                // This write, or a newer one, and whatever an application made of it.
                ("y 9a", "superseded"),
                ("z 9b", "superseded"),
                ("z 9a kept", "superseded"),
                ("z 12c mark", "superseded"),
                // An older replicated write, or a mark on known data.
                ("w 8c", "made at the second try"),
                ("w 8c mark", "made at the second try"),
                // A write that its region's agent has not reported.
                ("w", "contended"),
                ("y", "contended"),
                ("w 8c @b", "contended"),
                ("w 5b kept", "contended"),
                ("w junk", "contended"),
                // An absent item, with or without a mark, may be a newer delete.
                ("-", "contended"),
                (". 8c mark", "contended"),
            ],
        ),
        (
            // In the region where it was made, it may be stored without a stamp of its own.
            "9: x 5b -> y",
            "push",
            "b",
            &[
                ("x", "made"),
                ("x 5b", "made"),
                ("x 4c kept", "made"),
                ("x 8c mark", "made"),
                ("x junk", "made"),
                ("x 9a", "superseded"),
                ("w", "contended"),
            ],
        ),
        // Nobody knows its version.
        (
            "9: x -> y",
            "push",
            "c",
            &[("x", "made"), ("x 5b", "made"), ("x 9a", "superseded"), ("w", "contended")],
        ),
        (
            "9: - -> y",
            "push",
            "c",
            &[
                ("-", "made"),
                ("y", "contended"),
                ("w 8c", "made at the second try"),
                (". 8c mark", "made at the second try"),
            ],
        ),
        // On top of a mark, the item may be gone there, or not yet.
        (
            "9: x 5b mark -> y",
            "push",
            "c",
            &[
                ("-", "made"),
                ("x 5b mark", "made"),
                ("x", "made"),
                ("w", "contended"),
                (". 6c mark", "made at the second try"),
            ],
        ),
        (
            "9: x 5b -> -",
            "push",
            "c",
            &[
                ("x 5b", "made"),
                ("-", "made"),
                (". 6c mark", "made at the second try"),
                ("w", "contended"),
                ("w 9b", "superseded"),
            ],
        ),
    ]);
}

#[test]
fn what_is_done_at_home_replaces_nothing_that_its_maker_has_not_seen() {
    assert_meetings(&[
        (
            "9: v 4c #7 -> x; 9: x -> y 5b",
            "heal",
            "a",
            &[
                ("y 5b", "made"),
                ("z 6c", "made at the second try"),
                ("y 6c mark", "made at the second try"),
                ("y", "superseded"),
                ("y 5b kept", "superseded"),
                // Copies that an application has put back.
                ("z 6c @b", "superseded"),
                ("y 6c mark @c", "superseded"),
                ("v 4c #7", "superseded"),
                ("x 9a", "superseded"),
                ("-", "superseded"),
            ],
        ),
        (
            // Copies that the floors show, whether the key has shown them or not.
            "200: x 5b -> y; floors a=70 b=99 c=66; 200: y -> z 150b",
            "heal",
            "a",
            &[
                ("x 5b", "superseded"),
                ("w 38b", "superseded"),
                ("w 39b", "made at the second try"),
                ("w 5c", "superseded"),
                ("w 5c mark", "superseded"),
                ("w 6c", "made at the second try"),
                ("w 9a", "superseded"),
                ("w 10a", "made at the second try"),
                // A seed's floor is that of its hold.
                ("w 5b <6- #1", "made at the second try"),
            ],
        ),
        (
            // What an older heal may have left is no copy.
            "9: x -> -; floors a=70; 80: - -> y 5b; 81: y 5b -> z; 82: z -> -; 83: - -> y 6b",
            "heal",
            "a",
            &[("y 6b", "made"), ("y 9a mark", "made at the second try"), ("y 8a mark", "superseded")],
        ),
        (
            "200: x 5b -> y; floors b=99 -=7; 200: y -> z 150b",
            "heal",
            "a",
            &[("w 5b <6- #1", "superseded"), ("w 5b <7- #1", "made at the second try")],
        ),
        (
            "9: x -> x 5b mark",
            "apply delete",
            "a",
            &[
                ("x 5b mark", "made"),
                ("x 5b mark #1", "superseded"),
                ("y 5b mark", "superseded"),
                ("x", "superseded"),
                ("-", "superseded"),
            ],
        ),
        (
            "9: x 6b -> y 5b",
            "stamp",
            "a",
            &[
                // Beside whatever data an application has put there since.
                ("y 5b", "made"),
                ("z", "made at the second try"),
                ("z 6b kept", "made at the second try"),
                ("z junk", "made at the second try"),
                ("z 8c", "superseded"),
                ("z 9a", "superseded"),
                ("z 9a kept", "superseded"),
                ("z 10c kept", "superseded"),
                ("-", "superseded"),
            ],
        ),
    ]);
}

#[test]
fn a_copy_from_another_region_is_an_applications_write() {
    check(
        "its own version, over an older replicated one, looks like a heal",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> y 5b", "echo put; heal x as 9a"),
            ("9: y 5b -> x 9a @b", "local put; stamp x as 9.1a on 5b over its stamp; push x as 9.1a on 5b"),
        ],
    );
    check(
        "that region's own version",
        &[("9: - -> x 20b @b", "local put; stamp x as 20.1a over its stamp; push x as 20.1a")],
    );
    check(
        "a mark of that region's",
        &[(
            "9: x 4b -> x 20b mark @b",
            "local put; stamp x as 20.1a on 4b over its stamp; push x as 20.1a on 4b",
        )],
    );
}

#[test]
fn a_second_try_expects_exactly_what_was_found() {
    let found = image("w 8c").expect("an item");
    let guard = Guard::exactly(Some(&found));
    for (stored, holds) in
        [("w 8c", true), ("w 8c #1", false), ("v 8c #8388608000", false), ("w", false), ("-", false)]
    {
        assert_eq!(guard.holds(image(stored).as_ref()), holds, "{stored}");
    }
    let nothing = Guard::exactly(None);
    assert!(nothing.holds(None) && !nothing.holds(Some(&found)));
}

#[test]
fn at_a_second_try_a_delete_is_made_over_nothing_and_a_put_waits() {
    for (record, next) in [("9: x 5b -> -", Next::Again), ("9: x 5b -> y", Next::Contended)] {
        assert_eq!(action(record, "push").next(&origin("c"), None), next, "{record}");
    }
}

#[test]
fn a_mark_tells_the_data_below_it() {
    let Action::Push(write) = action("9: x 5b -> -", "push") else { unreachable!("a push") };
    let (image, version) = (item("x"), version("5b"));
    for (guard, below) in [
        (Guard::Absent, Fingerprint::of(&key())),
        (Guard::Exactly(&image), Fingerprint::of(&image)),
        (Guard::Stamp(None), Fingerprint::UNKNOWN),
        (Guard::Below(&version), Fingerprint::UNKNOWN),
    ] {
        let stamp = write.stamp(Nonce::new(&origin("a"), 1), &guard);
        assert_eq!(stamp.kind, StampKind::Mark(below), "{guard:?}");
    }
}

#[test]
fn whatever_stands_is_replaced_but_what_is_not_below() {
    let version = version("9a");
    for (stored, holds) in [("-", true), ("w", true), ("w 8c kept", true), ("w junk", true), ("w 9a", false)]
    {
        assert_eq!(Guard::Below(&version).holds(image(stored).as_ref()), holds, "{stored}");
    }
}

#[test]
fn a_stamp_beside_newer_data_changes_nothing() {
    check(
        "an application wrote once more before the stamp was set",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            ("9: x -> y", "local put; push y as 9.1a on 9a"),
            ("9: y -> y 9a kept", "unchanged"),
            ("9: y 9a kept -> z 9a kept", "local put; push z as 9.2a on 9.1a"),
            ("9: z 9a kept -> z 9.1a kept", "unchanged"),
            ("9: z 9.1a kept -> z 9.2a", "echo put"),
        ],
    );
    check(
        "but an application's own stamp does",
        &[
            ("9: - -> x", "local put; push x as 9a"),
            // Above everything that the stream has shown.
            ("9: x -> x 10a kept", "local put; push x as 10.1a on 9a"),
            ("10: x 10a kept -> x 9b kept", "local put; push x as 10.2a on 10.1a"),
            ("10: x 9b kept -> x 9.1b kept", "local put; push x as 10.3a on 10.2a"),
        ],
    );
}

#[test]
fn what_came_from_elsewhere_is_told() {
    let mut table = Table::new();
    for (step, arrived) in [
        ("9: - -> x", None),
        ("9: x -> y 5b", Some("5b")),
        ("9: y 5b -> y 10b", Some("10b")),
        ("9: y 10b -> y 11b mark", Some("11b")),
        ("9: y 11b mark -> -", None),
    ] {
        assert_eq!(table.judge(step).arrived.map(|(_, version)| version), arrived.map(version), "{step}");
    }
}
