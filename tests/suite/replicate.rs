//! Puts, updates, deletes and re-creations reach every peer, once each.

use crate::items::{key, n, row};
use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_reaches_two_peers() {
    let world = World::running(3).await;
    world.put(0, row("a", "one")).await;
    for peer in [1, 2] {
        world.await_item(peer, &key("a"), &row("a", "one")).await;
    }
    assert_eq!(world.converged().await.len(), 1);
    let total = world.total();
    assert_eq!((total.replicated, total.agent_writes()), (2, 2), "{total:?}");
    assert_eq!((total.local_puts, total.echoes), (1, 2), "{total:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_reaches_two_peers_from_any_region() {
    let world = World::running(3).await;
    world.put(0, row("a", "one")).await;
    let mut expected = row("a", "one");
    for (i, region) in [1, 2, 0, 2].into_iter().enumerate() {
        world.await_item(region, &key("a"), &expected).await;
        world.update(region, key("a"), "count", n(i)).await;
        expected.insert("count".to_owned(), n(i));
    }
    assert_eq!(world.converged().await.len(), 1);
    for region in world.regions() {
        world.await_item(region, &key("a"), &expected).await;
    }
    let total = world.total();
    assert_eq!((total.local_puts, total.conflicts), (5, 0), "{total:?}");
    // Two peers a write; one may have got the next write from another region first, or with this one.
    assert_eq!(total.agent_writes() + total.superseded + total.coalesced, 10, "{total:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_and_a_new_item_under_its_key_reach_two_peers() {
    let world = World::running(3).await;
    world.put(0, row("a", "one")).await;
    world.await_item(1, &key("a"), &row("a", "one")).await;
    world.converged().await;
    world.delete(1, key("a")).await;
    for region in [0, 2] {
        world.await_absent(region, &key("a")).await;
    }
    assert_eq!(world.converged().await.len(), 0);
    let total = world.total();
    // A put costs one write at each peer, and a delete two: the mark, and what carries it out.
    assert_eq!((total.local_deletes, total.deletes_applied), (1, 2), "{total:?}");
    assert_eq!(total.agent_writes(), 2 + 2 * 2, "{total:?}");

    world.put(2, row("a", "two")).await;
    for region in [0, 1] {
        world.await_item(region, &key("a"), &row("a", "two")).await;
    }
    assert_eq!(world.converged().await.len(), 1);
    assert_eq!(world.total().agent_writes(), 2 + 2 * 2 + 2, "{:?}", world.total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_and_its_delete_in_one_go_leave_nothing() {
    let world = World::running(3).await;
    for i in 0..20 {
        let id = format!("key {i}");
        world.put(i % 3, row(&id, "short-lived")).await;
        world.delete(i % 3, key(&id)).await;
    }
    world.put(0, row("last", "one")).await;
    for peer in [1, 2] {
        world.await_item(peer, &key("last"), &row("last", "one")).await;
    }
    assert_eq!(world.converged().await.len(), 1);
    world.still_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_is_told_for_each_peer_in_two_figures() {
    let world = World::running(3).await;
    for i in 0..5 {
        world.put(0, row(&format!("key {i}"), "one")).await;
    }
    world.converged().await;
    let report = serde_json::to_value(world.agent(0).figures().report()).unwrap();
    for peer in ["tokyo", "oregon"] {
        let lag = &report[0]["lag"][peer];
        for figure in ["since_seen", "since_creation"] {
            assert_eq!(lag[figure]["count"], 5, "{report:#}");
            let p50 = lag[figure]["p50_ms"].as_f64().unwrap();
            let max = lag[figure]["max_ms"].as_f64().unwrap();
            assert!(0.0 < p50 && p50 <= max, "{report:#}");
        }
    }
    assert_eq!(world.agent(1).figures().report()[0].lag.len(), 0);
}
