//! `tradewind wait` and `tradewind watermarks`.

use crate::items::{key, row};
use crate::process::{run, run_json};
use crate::world::World;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_before_is_there_when_the_wait_is_over() {
    let world = World::running(3).await;
    for round in 0..3 {
        for i in 0..10 {
            world.put(DUBLIN, row(&format!("key {round} {i}"), "one")).await;
        }
        let wait = world.tradewind(DUBLIN, &["wait", "--region", "dublin", "--until", "tokyo"]);
        let (code, waited) = run_json(wait).await;
        // Now, and not eventually.
        let there = world.get(TOKYO, &key(&format!("key {round} 9"))).await;
        assert_eq!(there, Some(row(&format!("key {round} 9"), "one")), "{waited:#}");
        assert_eq!((code, &waited["complete"]), (0, &true.into()), "{waited:#}");
        assert_eq!(waited["arrivals"][0]["peer"], "tokyo");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_cut_off_is_waited_for_in_vain_and_the_others_are_not() {
    let world = World::running(3).await;
    world.cut_off(TOKYO);
    world.put(DUBLIN, row("a", "one")).await;
    let wait = ["wait", "--region", "dublin", "--timeout", "8s"];
    let (code, waited) = run_json(world.tradewind(DUBLIN, &wait)).await;
    let arrived = |peer: &str| {
        let arrivals = waited["arrivals"].as_array().expect("a list").iter();
        arrivals.filter(|arrival| arrival["peer"] == peer).all(|arrival| arrival["arrived"] == 1)
    };
    assert_eq!((code, arrived("tokyo"), arrived("oregon")), (1, false, true), "{waited:#}");
    world.rejoin(TOKYO);
    let (code, text, _) = run(world.tradewind(DUBLIN, &["wait", "--region", "dublin"])).await;
    assert_eq!(code, 0, "{text}");
    assert_eq!(world.get(TOKYO, &key("a")).await, Some(row("a", "one")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_whom_there_is_not_is_refused() {
    let world = World::running(2).await;
    for arguments in [
        &["wait", "--region", "dublin", "--until", "atlantis"][..],
        &["wait", "--region", "atlantis"],
        &["wait", "--region", "dublin", "--until", "dublin"],
        &["wait", "--region", "dublin", "--table", "none"],
    ] {
        let (code, _, log) = run(world.tradewind(DUBLIN, arguments)).await;
        assert_eq!(code, 64, "{arguments:?}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watermarks_are_told_for_each_origin_and_peer() {
    let world = World::running(2).await;
    let (code, told) = run_json(world.tradewind(DUBLIN, &["watermarks"])).await;
    assert_eq!(code, 0, "{told:#}");
    let pair = |i: usize| (told[i]["origin"].clone(), told[i]["peer"].clone());
    assert_eq!(pair(0), ("tokyo".into(), "dublin".into()));
    assert_eq!(pair(1), ("dublin".into(), "tokyo".into()));
}
