//! No agent's write takes the place of what an application has written since: a count never goes back, and a
//! conditional update finds what the one before it left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::ReturnValue;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tradewind::config::Tuning;
use tradewind::protocol::Item;
use tradewind_proxy::{Fate, Tamper};

use crate::items::{exact, item, key, n, row, s, stamp_of};
use crate::world::{PATIENCE, PLAIN, World, eventually};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// An application that counts an item up, at a pace, where it alone counts.
struct Counter {
    client: Client,
    table: String,
    id: String,
    pace: Duration,
    /// What it was told each time that the count is.
    told: Vec<u64>,
}

impl Counter {
    fn new(world: &World, region: usize, id: &str, a_second: u32) -> Self {
        let (client, table) = (world.app(region).clone(), world.table.clone());
        let pace = Duration::from_secs(1) / a_second;
        Self { client, table, id: id.to_owned(), pace, told: Vec::new() }
    }

    fn made(&self) -> u64 {
        self.told.len() as u64
    }

    /// Counts on until it is told to stop, which it asks after each write.
    async fn go_on_until(&mut self, is_over: impl Fn(&Self) -> bool) {
        let mut ticks = tokio::time::interval(self.pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !is_over(self) {
            ticks.tick().await;
            let told = if self.made().is_multiple_of(3) { self.swap().await } else { self.add().await };
            self.told.push(told);
        }
    }

    /// `ADD n 1`: what n is then.
    async fn add(&self) -> u64 {
        let update = self.client.update_item().table_name(&self.table);
        let update = update
            .set_key(Some(key(&self.id)))
            .update_expression("ADD #n :one")
            .expression_attribute_names("#n", "n")
            .expression_attribute_values(":one", n(1))
            .return_values(ReturnValue::UpdatedNew);
        let told = update.send().await.expect("an update").attributes.expect("what was updated");
        told["n"].as_n().unwrap().parse().unwrap()
    }

    /// The same by an optimistic lock: it finds what the application left, or what it finds counts on from there.
    async fn swap(&self) -> u64 {
        let left = self.told.last().copied();
        let update = self.client.update_item().table_name(&self.table);
        let mut update = update
            .set_key(Some(key(&self.id)))
            .update_expression("SET #n = :next")
            .condition_expression(if left.is_some() { "#n = :left" } else { "attribute_not_exists(#n)" })
            .expression_attribute_names("#n", "n")
            .expression_attribute_values(":next", n(left.unwrap_or_default() + 1));
        if let Some(left) = left {
            update = update.expression_attribute_values(":left", n(left));
        }
        match update.send().await {
            Ok(_) => left.unwrap_or_default() + 1,
            // What it was told by the next write says how far it went back.
            Err(error) if error.to_string().contains("service error") => self.add().await,
            Err(error) => panic!("an update: {error}"),
        }
    }

    /// How often it was told no more than before.
    fn steps_back(&self) -> usize {
        self.told.windows(2).filter(|told| told[1] <= told[0]).count()
    }

    fn assert_counted(&self) {
        assert_eq!(self.told, (1..=self.made()).collect::<Vec<_>>(), "what the application was told");
    }
}

/// A link that lets no such call through while it is closed.
#[derive(Clone)]
struct Gate {
    operations: &'static [&'static str],
    is_closed: Arc<AtomicBool>,
    was_tried: Arc<AtomicBool>,
}

impl Gate {
    fn of(operations: &'static [&'static str]) -> Self {
        Self { operations, is_closed: Arc::default(), was_tried: Arc::default() }
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    fn open(&self) {
        self.is_closed.store(false, Ordering::Relaxed);
    }

    fn was_tried(&self) -> bool {
        self.was_tried.load(Ordering::Relaxed)
    }
}

impl Tamper for Gate {
    fn request(&self, operation: &str, body: &str) -> Fate {
        let is_meant = self.operations.contains(&operation) && body.contains("\"TableName\":\"orders-");
        if !is_meant || !self.is_closed.load(Ordering::Relaxed) {
            return Fate::Pass;
        }
        self.was_tried.store(true, Ordering::Relaxed);
        Fate::Fail("InternalServerError")
    }
}

/// An item with a note: a condition names only attributes that the agent has met in the table.
async fn with_note(world: &World) -> Item {
    let other = item([("pk", s("other")), ("note", s("nobody's"))]);
    world.put(DUBLIN, other.clone()).await;
    world.await_item(TOKYO, &key("other"), &other).await;
    other
}

/// Two regions, where dublin counts, and tokyo's one write to the same item comes late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_write_that_comes_late_takes_no_count_back() {
    let mut world = World::prepared(2, PLAIN).await;
    let gate = Gate::of(&["PutItem", "UpdateItem"]);
    world.tamper(TOKYO, DUBLIN, gate.clone()).await;
    world.start_agents().await;
    let other = with_note(&world).await;
    let mut counter = Counter::new(&world, DUBLIN, "a", 100);
    counter.go_on_until(|counter| counter.made() >= 75).await;
    world.await_item(TOKYO, &key("a"), &item([("pk", s("a")), ("n", n(75))])).await;
    gate.close();
    world.update(TOKYO, key("a"), "note", s("tokyo's")).await;
    eventually("tokyo's push", || async { gate.was_tried() }, |tried| *tried).await;
    // From the second of these on, dublin's versions are higher than tokyo's, whatever the clocks say.
    let now = counter.made();
    counter.go_on_until(|counter| counter.made() >= now + 25).await;
    gate.open();
    let answered = || {
        let tally = world.tally(TOKYO);
        tally.replicated + tally.superseded > 0
    };
    let deadline = Instant::now() + PATIENCE;
    counter
        .go_on_until(|counter| {
            assert!(Instant::now() < deadline, "tokyo's push is never answered");
            answered() && counter.made() >= 200
        })
        .await;
    counter.assert_counted();
    let expected = item([("pk", s("a")), ("n", n(counter.made()))]);
    let contents = world.converged().await;
    assert_eq!(contents.into_values().collect::<Vec<_>>(), [exact(&expected), exact(&other)]);
    world.still_quiet().await;
    assert_eq!(world.total().heals, 0, "{:?}", world.total());
}

/// Nobody but dublin writes: whatever its agent does beside that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stamps_in_place_take_no_count_back() {
    let mut world = World::prepared(2, PLAIN).await;
    world.tuning.memory_keys = 1;
    world.start_agents().await;
    let ids: Vec<String> = (0..5).map(|number| format!("key {number}")).collect();
    let mut counting = JoinSet::new();
    for id in &ids {
        let mut counter = Counter::new(&world, DUBLIN, id, 50);
        counting.spawn(async move {
            counter.go_on_until(|counter| counter.made() >= 40).await;
            counter
        });
    }
    counting.join_all().await.iter().for_each(Counter::assert_counted);
    let contents = world.converged().await;
    let expected: Vec<_> = ids.iter().map(|id| exact(&item([("pk", s(id)), ("n", n(40))]))).collect();
    assert_eq!(contents.into_values().collect::<Vec<_>>(), expected);
    world.still_quiet().await;
    let total = world.total();
    assert_eq!((total.heals, total.restamps > 0), (0, true), "{total:?}");
}

/// An update, in tokyo, of an item that dublin has deleted and tokyo's agent is about to delete there.
async fn update_between_mark_and_delete(update: impl AsyncFn(&World)) -> World {
    let mut world = World::prepared(2, PLAIN).await;
    let gate = Gate::of(&["DeleteItem"]);
    world.tamper(TOKYO, TOKYO, gate.clone()).await;
    world.start_agents().await;
    world.put(DUBLIN, row("a", "first")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "first")).await;
    gate.close();
    world.delete(DUBLIN, key("a")).await;
    eventually("tokyo's agent at its delete", || async { gate.was_tried() }, |tried| *tried).await;
    update(&world).await;
    gate.open();
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_between_mark_and_delete_lives() {
    let update = async |world: &World| world.update(TOKYO, key("a"), "v", s("second")).await;
    let world = update_between_mark_and_delete(update).await;
    let contents = world.converged().await;
    assert_eq!(contents.into_values().collect::<Vec<_>>(), [exact(&row("a", "second"))]);
    world.still_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_between_mark_and_delete_goes_on() {
    let told = std::sync::Mutex::new(Vec::new());
    let update = async |world: &World| {
        let mut counter = Counter::new(world, TOKYO, "a", 100);
        counter.go_on_until(|counter| counter.made() >= 5).await;
        told.lock().unwrap().extend(counter.told);
    };
    let world = update_between_mark_and_delete(update).await;
    let mut counter = Counter::new(&world, TOKYO, "a", 100);
    counter.told = told.lock().unwrap().clone();
    counter.go_on_until(|counter| counter.made() >= 30).await;
    counter.assert_counted();
    let expected = item([("pk", s("a")), ("v", s("first")), ("n", n(30))]);
    assert_eq!(world.converged().await.into_values().collect::<Vec<_>>(), [exact(&expected)]);
    world.still_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_before_the_mark_is_read_lives() {
    let mut world = World::running(3).await;
    world.put(DUBLIN, row("a", "first")).await;
    world.converged().await;
    world.stop_agent(TOKYO).await;
    world.delete(DUBLIN, key("a")).await;
    let see = || async { world.stored(TOKYO, &key("a")).await };
    let is_marked =
        |item: &Option<_>| item.as_ref().and_then(stamp_of).is_some_and(|stamp| stamp.contains(" x-"));
    eventually("a mark in tokyo", see, is_marked).await;
    world.update(TOKYO, key("a"), "v", s("second")).await;
    world.start_agent(TOKYO).await;
    let contents = world.converged().await;
    assert_eq!(contents.into_values().collect::<Vec<_>>(), [exact(&row("a", "second"))]);
    world.still_quiet().await;
}

/// How one run went: dublin counts, and tokyo sets a note midway.
#[derive(Debug)]
struct Run {
    counted: u64,
    ended: u64,
    steps_back: usize,
    /// Tokyo's write was the later one of two that knew nothing of each other, and so took dublin's place.
    note_won: bool,
}

impl Run {
    async fn make(world: Arc<World>, id: String, a_second: u32, writes: u64) -> Self {
        let mut counter = Counter::new(&world, DUBLIN, &id, a_second);
        counter.go_on_until(|counter| counter.made() >= writes / 4).await;
        let note = world.update(TOKYO, key(&id), "note", s("tokyo's"));
        tokio::join!(note, counter.go_on_until(|counter| counter.made() >= writes));
        let (made, steps_back) = (counter.made(), counter.steps_back());
        let see = || async { (world.get(DUBLIN, &key(&id)).await, world.get(TOKYO, &key(&id)).await) };
        let (stands, _) = eventually("the same in both regions", see, |(one, other)| one == other).await;
        let stands = stands.unwrap();
        let ended = stands["n"].as_n().unwrap().parse().unwrap();
        Self { counted: made, ended, steps_back, note_won: stands.contains_key("note") }
    }

    /// Where tokyo's version was lower, nothing went back.
    fn is_right(&self) -> bool {
        let whole = self.counted == self.ended && self.steps_back == 0;
        whole || self.note_won && self.steps_back <= 1
    }
}

/// Twenty runs at each of three paces, with agents as they are by default. To see:
/// `tests/with-engine dynamodb-local cargo nextest run --test suite --run-ignored only --no-capture -E
/// 'test(twenty_runs)'`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, of some minutes"]
async fn twenty_runs_at_each_pace() {
    let mut world = World::prepared(2, PLAIN).await;
    world.tuning = Tuning::default();
    world.start_agents().await;
    with_note(&world).await;
    let world = Arc::new(world);
    for (a_second, writes, at_once) in [(2, 40, 20), (10, 100, 5), (50, 200, 2)] {
        let before = world.total();
        let mut runs = Vec::new();
        for batch in 0..20 / at_once {
            let mut running = JoinSet::new();
            for at in 0..at_once {
                let id = format!("{a_second}-{batch}-{at}");
                running.spawn(Run::make(Arc::clone(&world), id, a_second, writes));
            }
            runs.extend(running.join_all().await);
        }
        let total = world.total();
        let count = |is: fn(&Run) -> bool| runs.iter().filter(|run| is(run)).count();
        eprintln!(
            "{a_second} writes a second: {} runs of {writes}; {} counted whole, {} went back, in {} tokyo's was the \
             later; {} heals, {} contended",
            runs.len(),
            count(|run| run.counted == run.ended),
            count(|run| run.steps_back > 0),
            count(|run| run.note_won),
            total.heals - before.heals,
            total.contended - before.contended,
        );
        for run in runs.iter().filter(|run| run.counted != run.ended || run.steps_back > 0) {
            eprintln!("    {run:?}");
        }
        assert!(runs.iter().all(Run::is_right), "{runs:#?}");
    }
}
