//! A table that is a replica of a managed global table is AWS's to replicate, and nobody else's.

use serde_json::{Value, json};
use tradewind_proxy::Tamper;

use crate::items::row;
use crate::process::{run, run_json};
use crate::world::{PLAIN, World};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// Describes the applications' tables as DynamoDB does managed replicas.
struct Managed;

impl Tamper for Managed {
    fn answer(&self, operation: &str, body: String) -> String {
        if operation != "DescribeTable" {
            return body;
        }
        let mut answer: Value = serde_json::from_str(&body).expect("JSON");
        let table = &mut answer["Table"];
        if table["TableName"].as_str().is_some_and(|name| name.starts_with("orders-")) {
            table["GlobalTableVersion"] = json!("2019.11.21");
            table["Replicas"] = json!([{ "RegionName": "us-east-1", "ReplicaStatus": "ACTIVE" }]);
        }
        answer.to_string()
    }
}

const REASON: &str = "it is a managed global table (with replicas in us-east-1)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_managed_replica_is_refused_by_init_run_and_doctor() {
    let mut world = World::prepared(2, PLAIN).await;
    world.tamper(DUBLIN, DUBLIN, Managed).await;
    for arguments in [&["init", "--dry-run"][..], &["init"], &["run", "--region", "dublin"]] {
        let (code, out, log) = run(world.tradewind(DUBLIN, arguments)).await;
        assert_eq!(code, 69, "{arguments:?}: {out}\n{log}");
        let said = format!("{out}{log}");
        assert!(said.contains(REASON) && said.contains(&world.table), "{arguments:?}: {said}");
        assert!(said.contains("dublin") && said.contains("take the table out of regions.toml"), "{said}");
    }
    let (code, report) = run_json(world.tradewind(DUBLIN, &["doctor"])).await;
    let findings = report["findings"].as_array().expect("findings");
    let found = findings.iter().find(|finding| finding["name"] == "managed_global_table").expect("a finding");
    assert_eq!((code, &found["harm"], &found["region"]), (1, &json!("halt"), &json!("dublin")), "{report:#}");
    assert!(found["problem"].as_str().is_some_and(|problem| problem.contains(REASON)), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_replicated_to_a_managed_replica() {
    let mut world = World::prepared(2, PLAIN).await;
    world.tamper(DUBLIN, TOKYO, Managed).await;
    world.put(DUBLIN, row("a", "one")).await;
    let mut process = world.start_process(DUBLIN);
    let line = process.says("Tradewind must not write to the peer's table").await;
    assert!(line.contains(REASON) && line.contains("peer=tokyo") && line.contains(&world.table), "{line}");
    assert_eq!(world.all_items(TOKYO).await, []);
    process.kill().await;
}
