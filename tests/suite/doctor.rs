//! `tradewind doctor`: each finding, and none where all is well.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::types::{ScalarAttributeType, StreamViewType, TimeToLiveSpecification};
use serde_json::{Value, json};
use tradewind::control::{Cause, ControlTable, DeadLetter, Gap, Verified};
use tradewind::protocol::{Body, Hlc, Version, Write};
use tradewind::region::Region;

use crate::items::{item, key, n, s};
use crate::process::{run, run_json};
use crate::world::{Keys, PLAIN, World, eventually};
use tradewind_proxy::{Fate, Tamper};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// What it found: `harm name region table`, in the order in which it told.
async fn findings(world: &World, arguments: &[&str]) -> (i32, Vec<String>) {
    let (code, told) = run_json(world.tradewind(DUBLIN, &[&["doctor"], arguments].concat())).await;
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let line = |finding: &Value| {
        assert!(!text(finding, "problem").is_empty() && !text(finding, "fix").is_empty(), "{finding:#}");
        let table = text(finding, "table").replace(&world.table, "T").replace(&world.control, "C");
        ["harm", "name", "region"].map(|name| text(finding, name)).join(" ") + " " + &table
    };
    (code, told["findings"].as_array().expect("findings").iter().map(line).collect())
}

/// The same, without what is so because no agent runs.
async fn found(world: &World) -> Vec<String> {
    let (code, mut findings) = findings(world, &[]).await;
    findings.retain(|finding| !finding.contains(" no_agent "));
    assert_eq!(code, 1);
    findings
}

#[expect(clippy::disallowed_methods, reason = "what is reported of ages goes by the wall clock")]
fn now_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap()
}

/// Two regions as `init` makes them.
async fn made() -> World {
    let world = World::bare(2).await;
    world.make_table(DUBLIN, PLAIN, Some(StreamViewType::NewAndOldImages)).await;
    let (code, _, log) = run(world.tradewind(DUBLIN, &["init", "--create-tables"])).await;
    assert_eq!(code, 0, "{log}");
    world
}

pub(crate) async fn control(world: &World, region: usize) -> ControlTable {
    let regions = Region::connect_all(&world.config(region)).await.expect("regions");
    ControlTable::of(&regions[&world.name(region).parse().unwrap()])
}

/// Changes what DescribeTable says of the replica.
struct Described(Arc<Mutex<Value>>);

impl Tamper for Described {
    fn answer(&self, operation: &str, body: String) -> String {
        if operation != "DescribeTable" || !body.contains("\"orders-") {
            return body;
        }
        let mut described: Value = serde_json::from_str(&body).unwrap();
        for (name, value) in self.0.lock().unwrap().as_object().unwrap() {
            described["Table"][name] = value.clone();
        }
        described.to_string()
    }
}

/// A service whose clock is off by so many seconds.
struct Clock(Arc<Mutex<i64>>);

impl Tamper for Clock {
    fn date(&self) -> Option<String> {
        let off = *self.0.lock().unwrap();
        let seconds = i64::try_from(now_millis() / 1000).unwrap() + off;
        let date = aws_sdk_dynamodb::primitives::DateTime::from_secs(seconds);
        Some(date.fmt(aws_sdk_dynamodb::primitives::DateTimeFormat::HttpDate).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_is_well_nothing_is_found() {
    let mut world = made().await;
    world.start_agents().await;
    world.put(DUBLIN, crate::items::row("a", "one")).await;
    world.converged().await;
    let (code, found) = findings(&world, &[]).await;
    assert_eq!((code, found), (0, Vec::new()));
    let (code, told) = run_json(world.tradewind(DUBLIN, &["doctor"])).await;
    assert_eq!((code, &told["untried"]), (0, &json!([])), "{told:#}");
    // Each region: the control table's 1 + 4 + 3, the replica's 1 + 3 + 3.
    assert_eq!(told["allowed"], 2 * 15, "{told:#}");
    assert!(told["clocks"]["tokyo"].as_f64().is_some_and(|ahead| ahead.abs() < 5.0), "{told:#}");
    // It left nothing behind.
    assert_eq!(world.converged().await.len(), 1);
    let (code, text, _) = run(world.tradewind(DUBLIN, &["doctor"])).await;
    assert!(code == 0 && text.contains("nothing to fix"), "{text}");
    // The agent of one region needs less at the others.
    let (code, told) = run_json(world.tradewind(DUBLIN, &["doctor", "--region", "dublin"])).await;
    assert_eq!((code, &told["allowed"]), (0, &json!(15 + 1 + 1 + 2)), "{told:#}");

    world.stop_agent(TOKYO).await;
    assert_eq!(findings(&world, &[]).await, (1, vec!["halt no_agent tokyo ".to_owned()]));
    assert_eq!(run(world.tradewind(DUBLIN, &["doctor", "--region", "atlantis"])).await.0, 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_do_not_fit_are_found_the_worst_first() {
    const OTHER: Keys = &[("id", ScalarAttributeType::N)];
    let world = World::bare(2).await;
    world.make_control_table(DUBLIN).await;
    world.make_table(DUBLIN, PLAIN, None).await;
    let expected = [
        "data_loss stream_off dublin T",
        "halt missing tokyo C",
        "halt missing tokyo T",
        "lag heartbeat_stream dublin C",
        "cost own_ttl dublin C",
    ];
    assert_eq!(found(&world).await, expected);
    world.make_control_table(TOKYO).await;
    world.make_table(TOKYO, OTHER, Some(StreamViewType::KeysOnly)).await;
    let found = found(&world).await;
    for expected in ["data_loss stream_view tokyo T", "halt keys_differ tokyo T", "cost own_ttl tokyo C"] {
        assert!(found.iter().any(|finding| finding == expected), "{expected}: {found:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_table_that_is_none_is_found() {
    let mut world = made().await;
    let other = format!("control-other-{}", world.table);
    let table = std::mem::replace(&mut world.table, other);
    world.make_table(DUBLIN, PLAIN, None).await;
    world.control = std::mem::replace(&mut world.table, table);
    let found = found(&world).await;
    assert!(found.contains(&"halt own_keys dublin control-other-T".to_owned()), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_action_that_is_refused_is_found() {
    let mut world = made().await;
    world.conflicts = tradewind::config::Conflicts::Table;
    let (code, _, log) = run(world.tradewind(DUBLIN, &["init"])).await;
    assert_eq!(code, 0, "{log}");
    let refused: Arc<Mutex<(&str, String)>> = Arc::default();
    let refuse = Arc::clone(&refused);
    world
        .tamper(DUBLIN, DUBLIN, move |operation: &str, body: &str| {
            let (refused, table) = &*refuse.lock().unwrap();
            let hit = operation == *refused && body.contains(table.as_str());
            if hit { Fate::Fail("AccessDeniedException") } else { Fate::Pass }
        })
        .await;
    let table = format!("\"TableName\":\"{}\"", world.table);
    let control = format!("\"TableName\":\"{}\"", world.control);
    let conflicts = format!("\"TableName\":\"{}\"", world.conflict_table());
    for (action, of, expected) in [
        ("DescribeTable", &table, "halt permission dublin T"),
        ("PutItem", &table, "halt permission dublin T"),
        ("UpdateItem", &table, "halt permission dublin T"),
        ("DeleteItem", &table, "halt permission dublin T"),
        ("DescribeTable", &control, "halt permission dublin C"),
        ("Query", &control, "halt permission dublin C"),
        ("PutItem", &control, "halt permission dublin C"),
        ("UpdateItem", &control, "halt permission dublin C"),
        ("DeleteItem", &control, "halt permission dublin C"),
        ("PutItem", &conflicts, "lag permission dublin conflicts-C"),
        ("GetItem", &conflicts, "lag permission dublin conflicts-C"),
    ] {
        *refused.lock().unwrap() = (action, of.clone());
        assert_eq!(found(&world).await, [expected], "{action} on {of}");
        let (_, text, _) = run(world.tradewind(DUBLIN, &["doctor"])).await;
        assert!(text.contains(&format!("allow dynamodb:{action}")), "{text}");
    }
    // Both streams; without them, lag is not measured, and nothing is replicated.
    for action in ["DescribeStream", "GetShardIterator", "GetRecords"] {
        *refused.lock().unwrap() = (action, String::new());
        assert_eq!(found(&world).await, ["halt permission dublin T", "lag permission dublin C"], "{action}");
    }
    // What fails otherwise is told as such.
    *refused.lock().unwrap() = ("", String::new());
    assert_eq!(found(&world).await, [""; 0].map(str::to_owned));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_refused_and_regions_that_are_away_are_found() {
    let mut world = made().await;
    world.tamper(DUBLIN, TOKYO, |_: &str, _: &str| Fate::Fail("UnrecognizedClientException")).await;
    assert_eq!(found(&world).await, ["halt credentials tokyo C"]);
    world.tamper(DUBLIN, TOKYO, |_: &str, _: &str| Fate::Pass).await;
    world.link(DUBLIN, TOKYO).cut();
    assert_eq!(found(&world).await, ["halt unreachable tokyo C"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_off_are_found() {
    let mut world = made().await;
    let off = Arc::new(Mutex::new(0));
    world.tamper(DUBLIN, TOKYO, Clock(Arc::clone(&off))).await;
    let (_, found) = findings(&world, &[]).await;
    assert!(!found.iter().any(|finding| finding.contains("clock")), "{found:#?}");
    for (seconds, expected) in [
        (60, &["data_loss clocks_apart tokyo ", "lag clock tokyo "]),
        (-60, &["data_loss clocks_apart dublin ", "lag clock tokyo "]),
    ] {
        *off.lock().unwrap() = seconds;
        assert_eq!(self::found(&world).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_to_live_that_differ_are_found() {
    let world = made().await;
    let expire = async |region: usize, attribute: &str| {
        let spec =
            TimeToLiveSpecification::builder().enabled(true).attribute_name(attribute).build().unwrap();
        let update = world.app(region).update_time_to_live().table_name(&world.table);
        update.time_to_live_specification(spec).send().await.expect("a time to live");
    };
    expire(DUBLIN, "until").await;
    assert_eq!(found_but(&world, &[]).await, ["note ttl_missing tokyo T"]);
    expire(TOKYO, "gone").await;
    assert_eq!(found_but(&world, &[]).await, ["data_loss ttl_differs tokyo T"]);
}

/// What was found, whatever the exit code, without some.
async fn found_but(world: &World, names: &[&str]) -> Vec<String> {
    let (_, mut findings) = findings(world, &[]).await;
    findings
        .retain(|finding| !finding.contains("no_agent") && !names.iter().any(|name| finding.contains(name)));
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_table_is_like_is_looked_at() {
    let mut world = made().await;
    let described = Arc::new(Mutex::new(json!({})));
    world.tamper(DUBLIN, DUBLIN, Described(Arc::clone(&described))).await;
    let definition = |name: &str| json!({ "AttributeName": name, "AttributeType": "S" });
    let units = |units: u32| json!({ "ReadCapacityUnits": units, "WriteCapacityUnits": units });
    let provisioned = json!({ "BillingMode": "PROVISIONED" });
    for (said, expected) in [
        (json!({ "TableStatus": "UPDATING" }), "halt not_active dublin T"),
        (
            json!({ "AttributeDefinitions": [definition("pk"), definition("_tw")] }),
            "halt reserved_attribute dublin T",
        ),
        (
            json!({
                "BillingModeSummary": provisioned, "ProvisionedThroughput": units(10),
                "GlobalSecondaryIndexes": [{ "IndexName": "by-v", "ProvisionedThroughput": units(5) }],
            }),
            "lag index_capacity dublin T",
        ),
        (
            json!({ "TableClassSummary": { "TableClass": "STANDARD_INFREQUENT_ACCESS" } }),
            "note table_class tokyo T",
        ),
    ] {
        *described.lock().unwrap() = said;
        assert_eq!(found_but(&world, &[]).await, [expected]);
    }
    // As many as the table takes is enough.
    *described.lock().unwrap() = json!({
        "BillingModeSummary": provisioned, "ProvisionedThroughput": units(10),
        "GlobalSecondaryIndexes": [{ "IndexName": "by-v", "ProvisionedThroughput": units(10) }],
    });
    assert_eq!(found_but(&world, &[]).await, [""; 0].map(str::to_owned));
    // What all regions write is more than it takes.
    report(&world, json!({ "writes_per_second": 9.0 })).await;
    assert_eq!(found_but(&world, &[]).await, ["lag capacity dublin "]);
    // A key can't stay home.
    *described.lock().unwrap() = json!({});
    world.peers = "[[table.peer]]\nregion = \"tokyo\"\nwithout = [\"pk\"]\n".to_owned();
    assert_eq!(found_but(&world, &["configuration"]).await, ["halt withheld_key tokyo T"]);
}

/// A report of Dublin's agent, as it would have made it just now.
async fn report(world: &World, says: Value) {
    let mut report =
        json!({ "region": "dublin", "agent": "a", "millis": now_millis(), "interval_millis": 600_000 });
    report.as_object_mut().unwrap().extend(says.as_object().unwrap().clone());
    let row =
        item([("pk", s("report")), ("sk", s("dublin a")), ("beat", n(1)), ("body", s(&report.to_string()))]);
    let put = world.app(DUBLIN).put_item().table_name(&world.control).set_item(Some(row));
    put.send().await.expect("a report");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_agents_report_is_looked_at() {
    let world = made().await;
    let peer = |age: u32| json!({ "peers": { "tokyo": { "watermark_age": age } } });
    let table = |says: Value| {
        let mut table = json!({ "table": world.table });
        table.as_object_mut().unwrap().extend(says.as_object().unwrap().clone());
        json!({ "tables": [table] })
    };
    for (says, expected) in [
        (peer(11 * 3600), None),
        (peer(13 * 3600), Some("data_loss retention dublin ")),
        (peer(25 * 3600), Some("data_loss retention dublin ")),
        (table(json!({ "trouble": "no stream" })), Some("halt trouble dublin T")),
        (table(json!({ "throttled": 7 })), Some("lag throttled dublin T")),
        (
            json!({ "peers": { "tokyo": { "paused_until": now_millis() + 60_000 } } }),
            Some("note paused dublin "),
        ),
    ] {
        report(&world, says).await;
        assert_eq!(found_but(&world, &[]).await, expected.into_iter().collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_control_tables_hold_is_looked_at() {
    let world = made().await;
    let (dublin, tokyo) = (control(&world, DUBLIN).await, control(&world, TOKYO).await);
    let verified = |items_differing| Verified { millis: now_millis(), items_compared: 9, items_differing };
    dublin.save_verified(&world.table, verified(2)).await.expect("a row");
    assert_eq!(found_but(&world, &[]).await, ["divergence differs dublin T"]);
    dublin.save_verified(&world.table, verified(0)).await.expect("a row");
    let gap = Gap {
        origin: "dublin".parse().unwrap(),
        shard: "shard".to_owned(),
        cause: Cause::Unreadable,
        peers: vec!["tokyo".parse().unwrap()],
        feeds: Vec::new(),
        from_millis: 1,
        until_millis: 2,
        found_millis: 3,
    };
    let again = Gap { found_millis: 4, ..gap.clone() };
    dublin.save_gap(&world.table, &again).await.expect("a mark");
    dublin.close_gap(&world.table, &gap).await.expect("a mark that is left, since it was made again");
    assert_eq!(found_but(&world, &[]).await, ["divergence marked dublin T"]);
    dublin.save_gap(&world.table, &gap).await.expect("a mark");
    assert_eq!(found_but(&world, &[]).await, ["divergence marked dublin T"]);
    dublin.close_gap(&world.table, &gap).await.expect("no mark");
    // Nobody has reported for a day; what is durable tells.
    let day_old = Hlc::at_millis(now_millis() - 25 * 3_600_000);
    tokyo
        .save_watermark(&world.table, &"dublin".parse().unwrap(), day_old, Vec::new(), now_millis())
        .await
        .expect("a watermark");
    assert_eq!(found_but(&world, &[]).await, ["data_loss retention dublin "]);
    tokyo
        .save_watermark(
            &world.table,
            &"dublin".parse().unwrap(),
            Hlc::at_millis(now_millis()),
            Vec::new(),
            now_millis(),
        )
        .await
        .expect("a watermark");
    let version = Version { hlc: Hlc::at_millis(now_millis()), origin: "dublin".parse().unwrap() };
    let write = Write { key: key("a"), version, base: None, body: Body::Delete, replaced: None, home: None };
    let letter = DeadLetter { peer: &"tokyo".parse().unwrap(), write: &write, reason: "refused" };
    dublin.save_dead_letter(&world.table, &letter, 30).await.expect("a letter");
    assert_eq!(found_but(&world, &[]).await, ["divergence dead_letters dublin T"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_with_other_configurations_are_found() {
    let mut world = made().await;
    world.start_agent(DUBLIN).await;
    world.peers = "[[table.peer]]\nregion = \"dublin\"\nwithout = [\"secret\"]\n".to_owned();
    world.start_agent(TOKYO).await;
    world.peers.clear();
    let look = || async { findings(&world, &[]).await };
    let seen = |found: &(i32, Vec<String>)| *found == (1, vec!["divergence configuration tokyo ".to_owned()]);
    eventually("one that differs", look, seen).await;
}
