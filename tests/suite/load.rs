//! A random load: an application in every region, all on the same few keys.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tradewind::protocol::Item;

use crate::items::{key, row, s};
use crate::world::{World, eventually};

/// Replays the choices of a load: with the same seed each application chooses the same writes.
const SEED: &str = "TRADEWIND_TEST_SEED";

/// How often an application writes. It leaves the agents some of the machine.
const PACE: Duration = Duration::from_millis(4);

/// What applications do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Puts and updates, each with a value of its own: every one makes a record.
    Writes,
    /// Everything: also deletes, and old copies put back, with data that their stamp matches and
    /// with data that it does not.
    Everything,
}

/// A load under way. It ends with [`Load::finish`], or when it is dropped.
pub(crate) struct Load {
    made: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    applications: JoinSet<()>,
}

pub(crate) fn seed() -> u64 {
    let given = std::env::var(SEED).ok().map(|seed| seed.parse().expect("a number"));
    let seed = given.unwrap_or_else(|| fastrand::Rng::new().u64(..));
    eprintln!("replay the choices with {SEED}={seed}");
    seed
}

impl Load {
    /// Starts an application in each region; they go on until told to finish, or have made
    /// `writes` writes each.
    pub(crate) fn start(world: &World, seed: u64, mix: Mix, keys: u64, writes: u64) -> Self {
        Self::paced(world, seed, mix, keys, writes, PACE)
    }

    /// The same, where each application makes a write every `pace` at most: one that goes on for
    /// minutes must not superseded the agents on a slow engine.
    pub(crate) fn paced(world: &World, seed: u64, mix: Mix, keys: u64, writes: u64, pace: Duration) -> Self {
        Self::in_regions(world, world.regions(), seed, mix, keys, writes, pace)
    }

    /// The same, with applications in some regions only.
    pub(crate) fn in_regions(
        world: &World,
        regions: impl IntoIterator<Item = usize>,
        seed: u64,
        mix: Mix,
        keys: u64,
        writes: u64,
        pace: Duration,
    ) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (made, over) = (Arc::default(), Arc::default());
        // Copies travel between regions, as in a cache or a backup.
        let copies = Arc::default();
        let mut applications = JoinSet::new();
        for region in regions {
            let application = Application {
                client: world.app(region).clone(),
                table: world.table.clone(),
                name: world.name(region).to_owned(),
                rng: rng.fork(),
                mix,
                keys,
                copies: Arc::clone(&copies),
                made: Arc::clone(&made),
            };
            applications.spawn(application.run(writes, pace, Arc::clone(&over)));
        }
        Self { made, over, applications }
    }

    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Waits until this many more writes have been made.
    pub(crate) async fn go_on(&self, writes: u64) {
        let goal = self.made() + writes;
        eventually("more writes", || async { self.made() }, |made| *made >= goal).await;
    }

    /// Lets each application finish its write; returns how many were made in all.
    pub(crate) async fn finish(mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.complete().await;
        self.made()
    }

    /// Waits until every application has made all its writes.
    pub(crate) async fn complete(&mut self) {
        while let Some(ended) = self.applications.join_next().await {
            ended.expect("an application");
        }
    }
}

struct Application {
    client: Client,
    table: String,
    name: String,
    rng: fastrand::Rng,
    mix: Mix,
    keys: u64,
    copies: Arc<Mutex<Vec<Item>>>,
    made: Arc<AtomicU64>,
}

impl Application {
    /// How many copies are kept.
    const COPIES: usize = 12;

    async fn run(mut self, writes: u64, pace: Duration, over: Arc<AtomicBool>) {
        let mut ticks = tokio::time::interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for serial in 0..writes {
            if over.load(Ordering::Relaxed) {
                return;
            }
            ticks.tick().await;
            self.write(serial).await;
            self.made.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn write(&mut self, serial: u64) {
        let id = format!("key {}", self.rng.u64(0..self.keys));
        let value = format!("{} {serial}", self.name);
        let deal = if self.mix == Mix::Writes { self.rng.u8(0..50) } else { self.rng.u8(0..100) };
        match deal {
            0..25 => self.put(row(&id, &value)).await,
            25..50 => self.update(&id, &value).await,
            50..62 => self.put_back(&id, None).await,
            62..70 => self.put_back(&id, Some(&value)).await,
            70..80 => {
                self.copy(&id).await;
                self.update(&id, &value).await;
            }
            _ => {
                let delete = self.client.delete_item().table_name(&self.table).set_key(Some(key(&id)));
                delete.send().await.expect("a delete");
            }
        }
    }

    async fn put(&self, item: Item) {
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item));
        put.send().await.expect("a put");
    }

    /// Keeps the stamp.
    async fn update(&self, id: &str, value: &str) {
        let update = self.client.update_item().table_name(&self.table).set_key(Some(key(id)));
        update
            .update_expression("SET v = :value")
            .expression_attribute_values(":value", s(value))
            .send()
            .await
            .expect("an update");
    }

    async fn copy(&mut self, id: &str) {
        let get = self.client.get_item().table_name(&self.table).set_key(Some(key(id)));
        let Some(item) = get.send().await.expect("a read").item else { return };
        let mut copies = self.copies.lock().unwrap();
        if copies.len() < Self::COPIES {
            copies.push(item);
        } else {
            let i = self.rng.usize(0..copies.len());
            copies[i] = item;
        }
    }

    /// Puts back a copy, stamp and all, with its own value or another.
    async fn put_back(&mut self, id: &str, value: Option<&str>) {
        self.copy(id).await;
        let copy = {
            let copies = self.copies.lock().unwrap();
            (!copies.is_empty()).then(|| copies[self.rng.usize(0..copies.len())].clone())
        };
        let mut copy = copy.unwrap_or_else(|| row(id, "nothing to put back"));
        if let Some(value) = value {
            copy.insert("v".to_owned(), s(value));
        }
        self.put(copy).await;
    }
}
