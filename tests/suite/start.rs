//! How an agent starts, and what it says where it can't.

use aws_sdk_dynamodb::types::{ScalarAttributeType, StreamViewType};
use tradewind::agent::{Agent, StartError};
use tradewind::fault::FaultKind;

use crate::items::{key, row};
use crate::world::{Keys, PLAIN, World};
use tradewind_proxy::Fate;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;
const OREGON: usize = 2;

async fn refusal(world: &World) -> StartError {
    Agent::start(&world.config(DUBLIN), world.name(DUBLIN)).await.expect_err("no agent can start here")
}

async fn fault(world: &World) -> (FaultKind, String) {
    match refusal(world).await {
        StartError::Fault { ref region, ref fault, .. } if region.as_str() == "dublin" => {
            (fault.kind, fault.to_string())
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_table_is_told() {
    let world = World::bare(2).await;
    world.make_control_table(DUBLIN).await;
    assert_eq!(fault(&world).await.0, FaultKind::Missing);
    let message = refusal(&world).await.to_string();
    assert!(message.contains(&world.table) && message.contains("tradewind init"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_control_table_is_told() {
    let world = World::bare(2).await;
    world.make_table(DUBLIN, PLAIN, Some(StreamViewType::NewAndOldImages)).await;
    assert_eq!(fault(&world).await.0, FaultKind::Missing);
    let message = refusal(&world).await.to_string();
    assert!(message.contains(&world.control) && message.contains("tradewind init"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_off_is_told() {
    let world = World::bare(2).await;
    world.make_control_table(DUBLIN).await;
    world.make_table(DUBLIN, PLAIN, None).await;
    let refused = refusal(&world).await;
    assert!(matches!(refused, StartError::NotReady { .. }), "{refused}");
    assert!(refused.to_string().contains("no stream"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_both_images_is_told() {
    for view in [StreamViewType::KeysOnly, StreamViewType::NewImage, StreamViewType::OldImage] {
        let world = World::bare(2).await;
        world.make_control_table(DUBLIN).await;
        world.make_table(DUBLIN, PLAIN, Some(view.clone())).await;
        let refused = refusal(&world).await;
        assert!(matches!(refused, StartError::NotReady { .. }), "{refused}");
        let message = refused.to_string();
        assert!(message.contains(view.as_str()) && message.contains("NEW_AND_OLD_IMAGES"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_region_is_told_with_those_there_are() {
    let world = World::prepared(2, PLAIN).await;
    let refused = Agent::start(&world.config(DUBLIN), "atlantis").await.expect_err("there is none");
    let message = refused.to_string();
    assert!(["atlantis", "dublin", "tokyo"].iter().all(|name| message.contains(name)), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_down_is_waited_for_and_then_told() {
    let mut world = World::prepared(2, PLAIN).await;
    world.link(DUBLIN, DUBLIN).cut();
    assert_eq!(fault(&world).await.0, FaultKind::Unreachable);

    // One that comes back in time will do.
    world.tuning.startup_timeout = crate::world::PATIENCE;
    let config = world.config(DUBLIN);
    let starting = tokio::spawn(async move { Agent::start(&config, "dublin").await.map(drop) });
    world.link(DUBLIN, DUBLIN).restore();
    starting.await.unwrap().expect("an agent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_credentials_are_told_at_once() {
    for code in ["UnrecognizedClientException", "AccessDeniedException", "ExpiredTokenException"] {
        let mut world = World::bare(2).await;
        world.tamper(DUBLIN, DUBLIN, move |_: &str, _: &str| Fate::Fail(code)).await;
        let (kind, message) = fault(&world).await;
        assert_eq!(kind, FaultKind::Refused);
        assert!(message.contains(code), "{message}");
        assert!(refusal(&world).await.to_string().contains("credentials"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_other_keys_gets_nothing_and_holds_nobody_up() {
    let other_name: Keys = &[("id", ScalarAttributeType::S)];
    let other_type: Keys = &[("pk", ScalarAttributeType::N)];
    let one_more: Keys = &[("pk", ScalarAttributeType::S), ("sk", ScalarAttributeType::S)];
    for keys in [other_name, other_type, one_more] {
        let mut world = World::bare(3).await;
        for region in world.regions() {
            world.make_control_table(region).await;
            let keys = if region == TOKYO { keys } else { PLAIN };
            world.make_table(region, keys, Some(StreamViewType::NewAndOldImages)).await;
        }
        for region in [DUBLIN, OREGON] {
            world.start_agent(region).await;
        }
        world.put(DUBLIN, row("a", "one")).await;
        world.await_item(OREGON, &key("a"), &row("a", "one")).await;
        world.update(OREGON, key("a"), "v", crate::items::s("two")).await;
        world.await_item(DUBLIN, &key("a"), &row("a", "two")).await;
        assert!(world.all_items(TOKYO).await.is_empty());
        assert_eq!(world.total().dead_letters, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_table_is_made_later_gets_everything() {
    let mut world = World::bare(2).await;
    for region in world.regions() {
        world.make_control_table(region).await;
    }
    world.make_table(DUBLIN, PLAIN, Some(StreamViewType::NewAndOldImages)).await;
    world.start_agent(DUBLIN).await;
    world.put(DUBLIN, row("a", "one")).await;
    world.make_table(TOKYO, PLAIN, Some(StreamViewType::NewAndOldImages)).await;
    world.start_agent(TOKYO).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    world.converged().await;
}
