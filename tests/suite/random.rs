//! Random loads on the same keys in every region at once: what they leave is the same everywhere.

use crate::load::{Load, Mix, seed};
use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_regions_converge_under_a_random_load() {
    let world = World::running(3).await;
    let mut load = Load::start(&world, seed(), Mix::Everything, 8, 200);
    load.complete().await;
    let contents = world.converged().await;
    assert!(contents.len() <= 8, "{contents:?}");
    world.still_quiet().await;
    let total = world.total();
    assert_eq!((total.dead_letters, total.gaps, total.unreadable), (0, 0, 0), "{total:?}");
    // The steady cost is at most four a write: two peers, a mark and a delete at each. Heals, and
    // deletes that meet a mark, come on top.
    assert!(total.agent_writes() <= 6 * load.made(), "{} writes: {total:?}", load.made());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_is_taken_for_an_echo_and_no_echo_for_a_write() {
    let world = World::running(3).await;
    let mut load = Load::start(&world, seed(), Mix::Writes, 6, 200);
    load.complete().await;
    world.converged().await;
    world.still_quiet().await;
    let total = world.total();
    assert_eq!(total.local_writes(), load.made(), "{total:?}");
    // Each write was sent to two peers, and was taken or turned down there.
    assert_eq!(total.replicated + total.outrun, 2 * load.made(), "{total:?}");
    assert_eq!(total.echoes, total.agent_writes(), "{total:?}");
    assert!(total.heals <= total.replicated, "{total:?}");
}
