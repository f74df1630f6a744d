//! `tradewind init`: makes what is missing, once, and tells what does not fit.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, LocalSecondaryIndex,
    Projection, ProjectionType, ProvisionedThroughput, ScalarAttributeType, StreamViewType, TableDescription,
    TimeToLiveSpecification,
};
use serde_json::Value;

use crate::items::{key, row};
use crate::process::{run, run_json};
use crate::world::{Keys, PLAIN, World};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

async fn init(world: &World, arguments: &[&str]) -> (i32, Value) {
    run_json(world.tradewind(DUBLIN, &[&["init"], arguments].concat())).await
}

fn count(value: &Value) -> usize {
    value.as_array().expect("a list").len()
}

async fn tables(world: &World, region: usize) -> Vec<String> {
    let names = world.app(region).list_tables().into_paginator().items().send();
    let names: Vec<String> = names.collect::<Result<_, _>>().await.expect("names");
    names.into_iter().filter(|name| *name == world.table || *name == world.control).collect()
}

async fn describe(world: &World, region: usize, table: &str) -> TableDescription {
    let described = world.app(region).describe_table().table_name(table).send().await;
    described.expect("a description").table.expect("a table")
}

async fn ttl(world: &World, region: usize, table: &str) -> Option<String> {
    let described = world.app(region).describe_time_to_live().table_name(table).send().await;
    described.expect("a description").time_to_live_description?.attribute_name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_missing_is_made_once() {
    let mut world = World::bare(3).await;
    world.make_table(DUBLIN, PLAIN, None).await;

    // Without leave to make tables: told, and nothing changed.
    let (code, plan) = init(&world, &[]).await;
    assert_eq!((code, count(&plan["problems"]), &plan["done"]), (69, 2, &false.into()), "{plan:#}");
    assert!(plan["problems"][0]["problem"].as_str().unwrap().contains("--create-tables"), "{plan:#}");
    assert_eq!(tables(&world, DUBLIN).await, [&*world.table]);

    // A dry run says what would be done: three control tables with a time to live and a stream, a stream, and
    // two tables.
    let (code, plan) = init(&world, &["--create-tables", "--dry-run"]).await;
    assert_eq!((code, count(&plan["steps"]), &plan["done"]), (0, 3 * 3 + 1 + 2, &false.into()), "{plan:#}");
    for region in [TOKYO, OREGON] {
        assert!(tables(&world, region).await.is_empty());
    }

    let (code, plan) = init(&world, &["--create-tables"]).await;
    assert_eq!((code, count(&plan["steps"]), &plan["done"]), (0, 12, &true.into()), "{plan:#}");
    for region in world.regions() {
        let stream = describe(&world, region, &world.table).await.stream_specification;
        let view = stream.and_then(|stream| stream.stream_view_type);
        assert_eq!(view, Some(StreamViewType::NewAndOldImages));
        assert_eq!(ttl(&world, region, &world.control).await.as_deref(), Some("expires"));
    }

    // Again: nothing to do.
    for arguments in [&[][..], &["--create-tables"]] {
        let (code, plan) = init(&world, arguments).await;
        assert_eq!((code, count(&plan["steps"]), count(&plan["problems"])), (0, 0, 0), "{plan:#}");
    }
    let (code, text, _) = run(world.tradewind(DUBLIN, &["init"])).await;
    assert_eq!((code, text.trim()), (0, "All replicas are ready; nothing to do."));

    world.start_agents().await;
    world.put(TOKYO, row("a", "one")).await;
    world.await_item(OREGON, &key("a"), &row("a", "one")).await;
    assert_eq!(world.converged().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_rows_of_its_own_tables_are_to_expire() {
    let mut world = World::bare(2).await;
    world.conflicts = tradewind::config::Conflicts::Table;
    world.make_table(DUBLIN, PLAIN, Some(StreamViewType::NewAndOldImages)).await;
    // One that was made by hand, without a time to live.
    world.make_control_table(DUBLIN).await;
    assert_eq!(ttl(&world, DUBLIN, &world.control).await, None);
    let (code, plan) = init(&world, &["--create-tables"]).await;
    assert_eq!(code, 0, "{plan:#}");
    for region in world.regions() {
        for table in [&world.control, &world.conflict_table()] {
            assert_eq!(ttl(&world, region, table).await.as_deref(), Some("expires"), "{table}");
        }
        // What applications keep is theirs.
        assert_eq!(ttl(&world, region, &world.table).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_made_like_the_first_in_every_respect() {
    let world = World::bare(2).await;
    make_rich_table(&world).await;
    let (code, plan) = init(&world, &["--create-tables"]).await;
    assert_eq!(code, 0, "{plan:#}");
    let (like, made) =
        (describe(&world, DUBLIN, &world.table).await, describe(&world, TOKYO, &world.table).await);
    assert_eq!(made.key_schema, like.key_schema);
    let sorted = |table: &TableDescription| {
        let mut definitions = table.attribute_definitions().to_vec();
        definitions.sort_by(|a, b| a.attribute_name.cmp(&b.attribute_name));
        definitions
    };
    assert_eq!(sorted(&made), sorted(&like));
    let capacity = |table: &TableDescription| {
        let given = table.provisioned_throughput.clone().expect("a capacity");
        (given.read_capacity_units, given.write_capacity_units)
    };
    assert_eq!((capacity(&made), capacity(&like)), ((Some(7), Some(8)), (Some(7), Some(8))));
    let global = |table: &TableDescription| {
        let index = table.global_secondary_indexes()[0].clone();
        let capacity = index.provisioned_throughput.expect("a capacity");
        let capacity = (capacity.read_capacity_units, capacity.write_capacity_units);
        (index.index_name, index.key_schema, index.projection, capacity)
    };
    assert_eq!(global(&made), global(&like));
    assert_eq!(global(&made).3, (Some(3), Some(4)));
    let local = |table: &TableDescription| {
        let index = table.local_secondary_indexes()[0].clone();
        (index.index_name, index.key_schema, index.projection)
    };
    assert_eq!(local(&made), local(&like));
    assert_eq!(ttl(&world, TOKYO, &world.table).await.as_deref(), Some("until"));
}

/// A table with both kinds of index, a capacity of its own, and a time to live.
async fn make_rich_table(world: &World) {
    let element = |name: &str, kind| {
        KeySchemaElement::builder().attribute_name(name).key_type(kind).build().expect("an element")
    };
    let (hash, range) = (KeyType::Hash, KeyType::Range);
    let capacity = |read, write| {
        let capacity = ProvisionedThroughput::builder().read_capacity_units(read).write_capacity_units(write);
        capacity.build().expect("a capacity")
    };
    let global = GlobalSecondaryIndex::builder()
        .index_name("by-city")
        .key_schema(element("city", hash.clone()))
        .key_schema(element("order", range.clone()))
        .projection(
            Projection::builder().projection_type(ProjectionType::Include).non_key_attributes("name").build(),
        )
        .provisioned_throughput(capacity(3, 4));
    let local = LocalSecondaryIndex::builder()
        .index_name("by-photo")
        .key_schema(element("customer", hash.clone()))
        .key_schema(element("photo", range.clone()))
        .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build());
    let mut make = world
        .app(DUBLIN)
        .create_table()
        .table_name(&world.table)
        .key_schema(element("customer", hash))
        .key_schema(element("order", range))
        .billing_mode(BillingMode::Provisioned)
        .provisioned_throughput(capacity(7, 8))
        .global_secondary_indexes(global.build().expect("an index"))
        .local_secondary_indexes(local.build().expect("an index"));
    for (name, kind) in [
        ("customer", ScalarAttributeType::S),
        ("order", ScalarAttributeType::N),
        ("city", ScalarAttributeType::S),
        ("photo", ScalarAttributeType::B),
    ] {
        let definition = AttributeDefinition::builder().attribute_name(name).attribute_type(kind);
        make = make.attribute_definitions(definition.build().expect("a definition"));
    }
    make.send().await.expect("a table");
    let spec = TimeToLiveSpecification::builder().enabled(true).attribute_name("until");
    let update = world.app(DUBLIN).update_time_to_live().table_name(&world.table);
    update.time_to_live_specification(spec.build().unwrap()).send().await.expect("a time to live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_another_view_type_is_told_with_its_fix() {
    let world = World::bare(2).await;
    world.make_table(DUBLIN, PLAIN, None).await;
    world.make_table(TOKYO, PLAIN, Some(StreamViewType::KeysOnly)).await;
    let (code, plan) = init(&world, &[]).await;
    assert_eq!((code, count(&plan["problems"])), (69, 1), "{plan:#}");
    let problem = plan["problems"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("KEYS_ONLY") && problem.contains("StreamEnabled=false"), "{problem}");
    // Nothing was changed, not even what could have been.
    assert!(
        describe(&world, DUBLIN, &world.table).await.stream_specification.is_none_or(|s| !s.stream_enabled)
    );
    assert_eq!(tables(&world, DUBLIN).await, [&*world.table]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_with_other_keys_are_told() {
    let other_name: Keys = &[("id", ScalarAttributeType::S)];
    let other_type: Keys = &[("pk", ScalarAttributeType::B)];
    let one_more: Keys = &[("pk", ScalarAttributeType::S), ("sk", ScalarAttributeType::N)];
    for (keys, found) in
        [(other_name, "id"), (other_type, "pk (HASH key, B)"), (one_more, "sk (RANGE key, N)")]
    {
        let world = World::bare(2).await;
        world.make_table(DUBLIN, PLAIN, Some(StreamViewType::NewAndOldImages)).await;
        world.make_table(TOKYO, keys, Some(StreamViewType::NewAndOldImages)).await;
        let (code, plan) = init(&world, &["--create-tables"]).await;
        assert_eq!((code, count(&plan["problems"])), (69, 1), "{plan:#}");
        assert_eq!(plan["problems"][0]["region"], "tokyo");
        let problem = plan["problems"][0]["problem"].as_str().unwrap();
        assert!(problem.contains(found) && problem.contains("pk (HASH key, S)"), "{problem}");
        assert_eq!(tables(&world, DUBLIN).await, [&*world.table]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_in_no_region_is_told() {
    let world = World::bare(2).await;
    let (code, text, _) = run(world.tradewind(DUBLIN, &["init", "--create-tables"])).await;
    assert_eq!(code, 69, "{text}");
    assert!(text.contains("in no region") && text.contains(&world.table), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_can_be_no_control_table_is_told() {
    let mut world = World::bare(2).await;
    world.make_table(DUBLIN, PLAIN, Some(StreamViewType::NewAndOldImages)).await;
    let (table, control) = (world.table.clone(), world.control.clone());
    // The one name for the other.
    (world.table, world.control) = (control, table);
    let (code, plan) = init(&world, &["--create-tables"]).await;
    assert_eq!(code, 69, "{plan:#}");
    let problem = plan["problems"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("not a control table") && problem.contains("control_table"), "{problem}");
}
