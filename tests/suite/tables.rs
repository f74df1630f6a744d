//! Several tables in one configuration: under other names, in other regions, in one place.

use tradewind::agent::Agent;
use tradewind::config::TableConfig;

use crate::items::{key, row};
use crate::world::{PLAIN, World, eventually};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

/// A second table, in dublin and oregon only, which has another name in each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_table_has_its_own_regions_and_names() {
    let mut world = World::prepared(3, PLAIN).await;
    let (orders, customers) = (world.table.clone(), world.table.replace("orders", "customers"));
    let mut tables = Vec::new();
    for region in [DUBLIN, OREGON] {
        let physical = format!("{customers}-{}", world.name(region));
        tables.push((world.name(region).parse().unwrap(), physical.clone()));
        world.table = physical;
        world.make_table(region, PLAIN, Some(aws_sdk_dynamodb::types::StreamViewType::NewAndOldImages)).await;
    }
    world.table = orders;
    let second = TableConfig::new(customers, tables.clone());
    let mut agents = Vec::new();
    for region in world.regions() {
        let mut config = world.config(region);
        config.tables.push(second.clone());
        agents.push(Agent::start(&config, world.name(region)).await.expect("an agent"));
    }
    let tables_of = |agent: &Agent| agent.figures().report().len();
    assert_eq!(agents.iter().map(tables_of).collect::<Vec<_>>(), [2, 1, 2]);

    // The same key in both tables, with other contents.
    world.put(DUBLIN, row("a", "order")).await;
    let put = world.app(DUBLIN).put_item().table_name(&tables[0].1);
    put.set_item(Some(row("a", "customer"))).send().await.expect("a put");
    for region in [TOKYO, OREGON] {
        world.await_item(region, &key("a"), &row("a", "order")).await;
    }
    let there = || async {
        let get = world.app(OREGON).get_item().table_name(&tables[1].1).set_key(Some(key("a")));
        let item = get.send().await.expect("a read").item;
        item.map(crate::items::without_stamp)
    };
    eventually("the customer", there, |item| *item == Some(row("a", "customer"))).await;
    // Each is reported by itself; the answer of a write comes after the write.
    let told = || async {
        let reports = agents[DUBLIN].figures().report();
        reports.into_iter().map(|table| (table.tally.local_puts, table.lag.len())).collect::<Vec<_>>()
    };
    eventually("one put in each table", told, |told| *told == [(1, 2), (1, 1)]).await;
}

/// Two tables of one account and AWS region replicate to each other, with a control table each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tables_in_one_place_are_replicas_of_each_other() {
    let mut world = World::bare(1).await;
    let (table, control) = (world.table.clone(), world.control.clone());
    for name in ["one", "two"] {
        (world.table, world.control) = (format!("{table}-{name}"), format!("{control}-{name}"));
        world.make_table(DUBLIN, PLAIN, Some(aws_sdk_dynamodb::types::StreamViewType::NewAndOldImages)).await;
        world.make_control_table(DUBLIN).await;
    }
    let mut config = world.config(DUBLIN);
    let mut regions = Vec::new();
    let mut replicas = Vec::new();
    for name in ["one", "two"] {
        let mut region = config.regions[0].clone();
        region.name = name.parse().unwrap();
        region.control_table = format!("{control}-{name}");
        replicas.push((region.name.clone(), format!("{table}-{name}")));
        regions.push(region);
    }
    config.regions = regions;
    config.tables = vec![TableConfig::new(table.clone(), replicas)];
    let agents = [Agent::start(&config, "one").await.unwrap(), Agent::start(&config, "two").await.unwrap()];
    for (i, (from, to)) in [("one", "two"), ("two", "one")].into_iter().enumerate() {
        let id = format!("key {i}");
        world.table = format!("{table}-{from}");
        world.put(DUBLIN, row(&id, from)).await;
        world.table = format!("{table}-{to}");
        world.await_item(DUBLIN, &key(&id), &row(&id, from)).await;
    }
    let total: u64 = agents.iter().map(|agent| agent.figures().report()[0].tally.local_puts).sum();
    assert_eq!(total, 2);
}
