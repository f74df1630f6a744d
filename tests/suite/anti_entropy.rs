//! `[anti_entropy]`: agents find by themselves that replicas differ, and settle it by versions.

use std::time::Duration;

use tradewind::control::{ControlTable, Verified};
use tradewind::region::Region;

use crate::calls::CALLER;
use crate::items::{key, row, stamped};
use crate::process::Process;
use crate::world::{PLAIN, World, eventually_within};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// There are several barriers, and an engine may be busy.
const LONG: Duration = Duration::from_secs(400);
const LOOK: Duration = Duration::from_millis(250);

async fn running(more: &'static str) -> (World, Vec<Process>) {
    let mut world = World::prepared(2, PLAIN).await;
    world.more = more;
    let start = |region: usize| {
        let mut command = world.tradewind(region, &["run", "--region", world.name(region)]);
        // It calls more than other agents do.
        command.env(CALLER, "run.anti-entropy");
        Process::start(command)
    };
    let mut agents: Vec<Process> = world.regions().map(start).collect();
    for agent in &mut agents {
        agent.says("replicating").await;
    }
    (world, agents)
}

/// What the last comparison that fits has found.
async fn verified(world: &World, fits: impl Fn(&Verified) -> bool) {
    let config = world.config(DUBLIN);
    let region = Region::connect(&config.regions[DUBLIN]).await.expect("a region");
    let look = || async {
        let agreement = ControlTable::of(&region).agreement(&world.table).await.expect("rows");
        agreement.verified
    };
    eventually_within(LONG, LOOK, "a comparison", look, |verified| verified.as_ref().is_some_and(&fits))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_is_found_and_the_newer_version_wins() {
    let (world, _agents) = running("[anti_entropy]\nevery = \"2s\"\n").await;
    world.put(DUBLIN, row("same", "one")).await;
    world.await_item(TOKYO, &key("same"), &row("same", "one")).await;
    verified(&world, |verified| (verified.items_compared, verified.items_differing) == (1, 0)).await;
    for (region, value, millis) in [(DUBLIN, "old", 1000), (TOKYO, "new", 3000)] {
        world.put(region, stamped(region, row("differs", value), millis)).await;
    }
    // It may have been deleted elsewhere: a person decides.
    world.put(TOKYO, stamped(TOKYO, row("missing", "one"), 1000)).await;
    world.await_item(DUBLIN, &key("differs"), &row("differs", "new")).await;
    verified(&world, |verified| (verified.items_compared, verified.items_differing) == (3, 1)).await;
    assert_eq!(world.get(DUBLIN, &key("missing")).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_only_tells_of_it_where_it_is_to_repair_nothing() {
    let (world, _agents) = running("[anti_entropy]\nevery = \"2s\"\nrepair = \"nothing\"\n").await;
    for (region, value, millis) in [(DUBLIN, "old", 1000), (TOKYO, "new", 3000)] {
        world.put(region, stamped(region, row("differs", value), millis)).await;
    }
    verified(&world, |verified| verified.items_differing == 1).await;
    assert_eq!(world.get(DUBLIN, &key("differs")).await, Some(row("differs", "old")));
}
