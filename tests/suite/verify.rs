//! `tradewind verify`: 0 where replicas agree, 1 and the keys where they differ.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use tradewind::item_json::item_json;
use tradewind::protocol::{Fingerprint, Item, STAMP};

use crate::items::{key, nonce, row, s, stamped};
use crate::load::{Load, Mix, seed};
use crate::process::{run, run_json};
use crate::world::{PLAIN, World};
use tradewind_proxy::Fate;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

async fn verify(world: &World, arguments: &[&str]) -> (i32, Value) {
    let arguments = [&["verify", "--settle", "0s"], arguments].concat();
    run_json(world.tradewind(DUBLIN, &arguments)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_agree_are_told_to() {
    let world = World::running(3).await;
    for i in 0..50 {
        world.put(i % 3, row(&format!("key {i}"), "one")).await;
    }
    world.delete(DUBLIN, key("key 0")).await;
    world.converged().await;
    let (code, result) = verify(&world, &[]).await;
    assert_eq!(code, 0, "{result:#}");
    let table = &result["tables"][0];
    assert_eq!(table["items_compared"], 49);
    assert_eq!((&table["items_differing"], &table["differences"]), (&json!(0), &json!([])));
    let (code, text, _) = run(world.tradewind(TOKYO, &["verify"])).await;
    assert_eq!((code, text.trim()), (0, &*format!("{}: 49 items compared, 0 differing", world.table)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_replicas_agree() {
    let world = World::prepared(2, PLAIN).await;
    let (code, result) = verify(&world, &[]).await;
    assert_eq!((code, &result["tables"][0]["items_compared"]), (0, &json!(0)), "{result:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_differ_are_told_with_keys_and_reasons() {
    let world = World::prepared(3, PLAIN).await;
    for region in world.regions() {
        world.put(region, row("same", "one")).await;
    }
    world.put(DUBLIN, row("different", "one")).await;
    world.put(TOKYO, row("different", "two")).await;
    world.put(OREGON, row("different", "one")).await;
    world.put(DUBLIN, row("missing", "one")).await;
    world.put(OREGON, row("missing", "one")).await;
    let (code, result) = verify(&world, &[]).await;
    assert_eq!(code, 1, "{result:#}");
    let table = &result["tables"][0];
    assert_eq!((&table["items_compared"], &table["items_differing"]), (&json!(3), &json!(2)));
    let [different, missing] = table["differences"].as_array().unwrap().as_slice() else {
        panic!("{result:#}")
    };
    assert_eq!(different["key"], item_json(&key("different")));
    assert_eq!(different["why"], "different in v");
    assert_eq!(missing["key"], item_json(&key("missing")));
    assert_eq!(missing["why"], "missing in tokyo");
    assert_eq!(missing["regions"]["tokyo"]["holds"], "nothing");
    assert_eq!(missing["regions"]["oregon"]["holds"], "item");

    let (code, text, _) = run(world.tradewind(DUBLIN, &["verify", "--settle", "0s"])).await;
    assert_eq!(code, 1, "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines,
        [
            r#"{"pk":{"S":"different"}}: different in v"#,
            r#"{"pk":{"S":"missing"}}: missing in tokyo"#,
            &format!("{}: 3 items compared, 2 differing", world.table),
        ]
    );

    let (code, result) = verify(&world, &["--limit", "1"]).await;
    let table = &result["tables"][0];
    assert_eq!((code, &table["items_differing"]), (1, &json!(2)), "{result:#}");
    assert_eq!(table["differences"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_waits_for_its_delete_is_told_as_such() {
    let mut world = World::running(2).await;
    world.put(DUBLIN, row("a", "one")).await;
    world.converged().await;
    world.stop_agent(TOKYO).await;
    world.delete(DUBLIN, key("a")).await;
    world.quiet().await;
    let (code, result) = verify(&world, &[]).await;
    assert_eq!(code, 1, "{result:#}");
    let why = result["tables"][0]["differences"][0]["why"].as_str().unwrap();
    assert!(why.contains("marked for deletion in tokyo"), "{why}");

    // With time to settle, what is on its way arrives.
    let waiting = world.tradewind(DUBLIN, &["verify", "--settle", "50s"]);
    let waiting = tokio::spawn(run(waiting));
    world.start_agent(TOKYO).await;
    let (code, text, _) = waiting.await.unwrap();
    assert_eq!(code, 0, "{text}");
}

fn marked(id: &str, millis: u64) -> Item {
    let mut item = row(id, "one");
    let marked = format!("x-{}", Fingerprint::of(&item));
    item.insert(
        STAMP.to_owned(),
        s(&format!("tw1 {:016x} dublin - - {marked} {}", millis << 16, nonce(TOKYO, 7))),
    );
    item
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_difference_is_told_with_who_is_newer() {
    let world = World::prepared(2, PLAIN).await;
    for (dublin, tokyo) in [
        (Some(row("same", "one")), Some(stamped(TOKYO, row("same", "one"), 1000))),
        (Some(row("missing", "one")), None),
        (None, Some(stamped(TOKYO, row("extra", "one"), 1000))),
        (
            Some(stamped(DUBLIN, row("other data", "one"), 1000)),
            Some(stamped(TOKYO, row("other data", "two"), 2000)),
        ),
        (
            Some(stamped(DUBLIN, row("other stamp", "one"), 2000)),
            Some(stamped(TOKYO, row("other stamp", "one"), 1000)),
        ),
        (Some(stamped(DUBLIN, row("marked", "one"), 1000)), Some(marked("marked", 2000))),
        (Some(row("unstamped", "one")), Some(stamped(TOKYO, row("unstamped", "two"), 1000))),
    ] {
        for (region, item) in [(DUBLIN, dublin), (TOKYO, tokyo)] {
            if let Some(item) = item {
                world.put(region, item).await;
            }
        }
    }
    let (code, result) = verify(&world, &[]).await;
    let table = &result["tables"][0];
    assert_eq!(code, 1, "{result:#}");
    let counts = ["items_compared", "items_differing", "versions_differing"].map(|name| &table[name]);
    assert_eq!(counts, [&json!(7), &json!(5), &json!(1)], "{result:#}");
    let told: Vec<(String, &str, Value)> = table["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| {
            let key = found["key"]["pk"]["S"].as_str().unwrap().to_owned();
            (key, found["why"].as_str().unwrap(), found["newest"].clone())
        })
        .collect();
    let expected = [
        ("extra", "missing in dublin", json!([])),
        ("marked", "marked for deletion in tokyo (is its agent running?)", json!(["tokyo"])),
        ("missing", "missing in tokyo", json!([])),
        ("other data", "different in v", json!(["tokyo"])),
        ("other stamp", "the same in all regions, but stamped with different versions", json!(["dublin"])),
        ("unstamped", "different in v", json!([])),
    ];
    let expected: Vec<_> = expected.map(|(key, why, newest)| (key.to_owned(), why, newest)).into();
    assert_eq!(told, expected, "{result:#}");
    assert!(table["read_units"]["dublin"].as_f64().unwrap() > 0.0, "{result:#}");

    // All of them, a line each, and then the result.
    let each = ["verify", "--settle", "0s", "--each", "--json", "--read-units", "20"];
    let (code, out, log) = run(world.tradewind(DUBLIN, &each)).await;
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, lines.len()), (1, 7), "{out}{log}");
    assert!(lines[..6].iter().all(|line| line["table"] == json!(world.table)), "{out}");
    assert_eq!(lines[6]["tables"][0]["items_differing"], 5, "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_that_only_carry_different_versions_are_told_of_but_do_not_differ() {
    let world = World::prepared(2, PLAIN).await;
    world.put(DUBLIN, stamped(DUBLIN, row("a", "one"), 2000)).await;
    world.put(TOKYO, stamped(TOKYO, row("a", "one"), 1000)).await;
    let (code, text, _) = run(world.tradewind(DUBLIN, &["verify", "--settle", "0s"])).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("stamped with different versions; newest in dublin"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_though_all_has_arrived_is_told_of_by_the_word_of_the_agents() {
    let world = World::running(3).await;
    // It looks like an agent's, so no agent replicates it.
    let extra = stamped(TOKYO, row("extra", "one"), 1000);
    world.put(TOKYO, extra).await;
    world.put(DUBLIN, row("a", "one")).await;
    world.quiet().await;
    let mut command = world.tradewind(DUBLIN, &["verify", "--json"]);
    let output = timeout(LONG, command.output()).await.expect("an end in time").expect("a process");
    let result: Value = serde_json::from_slice(&output.stdout).expect("a result");
    let table = &result["tables"][0];
    assert_eq!(
        (&table["items_differing"], &table["agents_answered"]),
        (&json!(1), &json!(true)),
        "{result:#}"
    );
    assert_eq!(table["differences"][0]["why"], "missing in dublin, oregon");
    assert_eq!(output.status.code(), Some(1));
}

/// There may be several barriers, and an engine may be busy.
const LONG: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_told_of_while_applications_write_all_the_time() {
    let world = World::running(3).await;
    let load = Load::paced(&world, seed(), Mix::Everything, 40, u64::MAX, Duration::from_millis(50));
    load.go_on(60).await;
    for _ in 0..2 {
        let mut command = world.tradewind(DUBLIN, &["verify", "--json", "--segments", "2"]);
        let output = timeout(LONG, command.output()).await.expect("an end in time").expect("a process");
        let result: Value = serde_json::from_slice(&output.stdout).expect("a result");
        assert_eq!(output.status.code(), Some(0), "{result:#}");
        assert_eq!(result["tables"][0]["items_differing"], 0, "{result:#}");
    }
    load.finish().await;
    world.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_may_not_be_left_for_the_agents_is_printed_all_the_same() {
    let mut world = World::prepared(2, PLAIN).await;
    let refuse = |operation: &str, body: &str| {
        let left = operation == "PutItem" && body.contains("\"verified\"");
        if left { Fate::Fail("AccessDeniedException") } else { Fate::Pass }
    };
    world.tamper(DUBLIN, TOKYO, refuse).await;
    let (code, text, log) = run(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!((code, text.trim()), (0, &*format!("{}: 0 items compared, 0 differing", world.table)));
    assert!(
        log.contains("can't store the result") && log.contains("tokyo") && !log.contains("dublin"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_replica_ends_verify_with_69() {
    let world = World::bare(2).await;
    world.make_table(DUBLIN, PLAIN, None).await;
    let (code, text, log) = run(world.tradewind(DUBLIN, &["verify"])).await;
    assert_eq!((code, &*text), (69, ""), "{log}");
    assert!(log.contains("tokyo") && log.contains("--create-tables"), "{log}");
}

/// How much memory `verify` takes at its most, with many small items in two regions: `tests/scale compare`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, of minutes"]
async fn peak_memory_of_verify() {
    let items = std::env::var("TRADEWIND_VERIFY_ITEMS").ok().and_then(|items| items.parse().ok());
    let items: usize = items.unwrap_or(100_000);
    let world = World::prepared(2, PLAIN).await;
    let rows = || (0..items).map(|i| row(&format!("item {i:06}"), "as long as an order's number, or so"));
    tokio::join!(world.put_all(DUBLIN, rows()), world.put_all(TOKYO, rows()));
    let arguments = ["verify", "--settle", "0s", "--segments", "1", "--memory-mib", "1"];
    let mut command = world.tradewind(DUBLIN, &arguments);
    let mut verify = command.stdout(std::process::Stdio::null()).spawn().expect("a process");
    let status = format!("/proc/{}/status", verify.id().expect("a running process"));
    let mut peak = 0;
    loop {
        // It is gone once the process has ended.
        let told = std::fs::read_to_string(&status).unwrap_or_default();
        let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or_default());
        if let Ok(ended) = timeout(Duration::from_millis(20), verify.wait()).await {
            assert_eq!(ended.expect("a process").code(), Some(0));
            break;
        }
    }
    eprintln!("{items} items a region: at most {} MiB with --memory-mib 1", peak / 1024);
}
