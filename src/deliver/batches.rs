//! The way to a feed's sink: events in the order in which they were read, in batches, each until the sink has
//! taken it.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, error, info};

use super::queue::{Queue, Queued};
use super::{Complaints, Job};
use crate::fault::Backoff;
use crate::feed::{Event, Filter, Telling};
use crate::protocol::Action;
use crate::sink::Sink;
use crate::tally::FeedCounts;

/// How a feed tells its events, and to which sink.
#[derive(Debug)]
pub struct Teller {
    pub telling: Telling,
    /// An event is told if one of them matches, or if there is none.
    pub filters: Vec<Filter>,
    pub sink: Sink,
    pub counts: Arc<FeedCounts>,
    pub complaints: Complaints,
}

/// Queues a feed's events.
#[derive(Debug)]
pub struct Batches(pub(super) Queue<Queued>);

impl Batches {
    /// Starts delivering among `tasks`, and ends with them.
    pub fn start(teller: Teller, queue_mib: usize, tasks: &mut JoinSet<()>) -> Self {
        let (sender, queue) = mpsc::unbounded_channel();
        tasks.spawn(teller.run(queue));
        Self(Queue::new(sender, queue_mib))
    }
}

impl Teller {
    async fn run(self, mut queue: mpsc::UnboundedReceiver<Queued>) {
        let most = self.sink.most();
        let mut batch = Vec::with_capacity(most);
        while queue.recv_many(&mut batch, most).await > 0 {
            self.deliver(std::mem::take(&mut batch)).await;
        }
    }

    /// Delivers a batch, and marks its jobs as finished; those whose lease has ended are left to its next
    /// owner.
    async fn deliver(&self, batch: Vec<Queued>) {
        let told = batch.into_iter().map(|queued| (self.event(&queued.0), queued));
        let mut told: Vec<(Option<Value>, Queued)> = told.collect();
        let mut backoff = Backoff::default();
        let mut has_failed = false;
        loop {
            told.retain(|(_, (job, _))| !job.tenure.has_ended());
            let events: Vec<&Value> = told.iter().filter_map(|(event, _)| event.as_ref()).collect();
            let outcome = if events.is_empty() { Ok(()) } else { self.sink.deliver(&events).await };
            let Telling { feed, table, region, .. } = &self.telling;
            let Err(fault) = outcome else {
                if has_failed {
                    info!(%region, %feed, table, "the feed's sink takes events again");
                }
                self.counts.delivered.add_all(events.len());
                for (_, (job, _)) in &told {
                    job.finish();
                }
                return;
            };
            has_failed = true;
            self.counts.retried.add();
            if self.complaints.is_due() {
                error!(
                    %region, %feed, table, %fault, events = events.len(),
                    "can't deliver a feed's events; retrying, and the feed's later events wait"
                );
            } else {
                debug!(%region, %feed, table, %fault, "can't deliver a feed's events; retrying");
            }
            tokio::time::sleep(backoff.next(fault.kind)).await;
        }
    }

    /// What a job tells, if anything.
    fn event(&self, job: &Job) -> Option<Value> {
        let Action::Push(write) = &job.action else { return None };
        let event = Event::of(write)?.json(&self.telling, job.record.created_millis);
        let is_told = self.filters.is_empty() || self.filters.iter().any(|filter| filter.matches(&event));
        if !is_told {
            self.counts.filtered.add();
        }
        is_told.then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sdk_dynamodb::types::AttributeValue;
    use tokio::time::Instant;

    use super::*;
    use crate::deliver::{JobRecord, Ledger, Tenure};
    use crate::protocol::{Floors, Item, KeyMemory, Record};
    use crate::sink::FileSink;

    fn job(ordinal: u64, status: &str, ledger: &Arc<Ledger>, tenure: &Arc<Tenure>) -> Job {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let key = Item::from([("pk".to_owned(), text("a"))]);
        let new = Item::from([("pk".to_owned(), text("a")), ("status".to_owned(), text(status))]);
        let record = Record { created_millis: 1_800_000_000_000 + ordinal, key, old: None, new: Some(new) };
        let mut memory = KeyMemory::new("tokyo".parse().expect("a name"));
        let judgement = memory.judge(ordinal, record, &Floors::default(), false);
        let action = judgement.actions.into_iter().find(|action| matches!(action, Action::Push(_)));
        let record = JobRecord {
            ordinal,
            ledger: Arc::clone(ledger),
            created_millis: 1_800_000_000_000 + ordinal,
            seen: Instant::now(),
        };
        let tenure = Arc::clone(tenure);
        Job { action: action.expect("a push"), record, tenure, trace: None, coalesced: Vec::new() }
    }

    fn teller(path: std::path::PathBuf, counts: &Arc<FeedCounts>) -> Teller {
        Teller {
            telling: Telling {
                feed: "search".parse().expect("a name"),
                table: "orders".to_owned(),
                region: "tokyo".parse().expect("a name"),
                aws_region: "ap-northeast-1".to_owned(),
            },
            filters: vec![
                r#"{"dynamodb":{"NewImage":{"status":{"S":[{"anything-but":"draft"}]}}}}"#
                    .parse()
                    .expect("a filter"),
            ],
            sink: Sink::File(FileSink::new(path)),
            counts: Arc::clone(counts),
            complaints: Complaints::default(),
        }
    }

    fn told(path: &std::path::Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let status = |line: &str| {
            let event: Value = serde_json::from_str(line).expect("an event");
            event["dynamodb"]["NewImage"]["status"]["S"].as_str().expect("text").to_owned()
        };
        text.lines().map(status).collect()
    }

    #[tokio::test]
    async fn events_are_told_in_order_and_finished_once_they_are_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("later");
        let path = missing.join("events.jsonl");
        let (counts, ledger) = (Arc::<FeedCounts>::default(), Arc::<Ledger>::default());
        let tenure = Arc::new(Tenure::until(Instant::now() + Duration::from_mins(1)));
        let gone = Arc::new(Tenure::until(Instant::now() + Duration::from_mins(1)));
        gone.end();
        let mut tasks = JoinSet::new();
        let batches = Batches::start(teller(path.clone(), &counts), 1, &mut tasks);
        for (ordinal, status) in [(1, "new"), (2, "draft"), (3, "paid")] {
            batches.0.send(job(ordinal, status, &ledger, &tenure)).await;
        }
        // Its lease has gone to another agent, which tells it.
        batches.0.send(job(4, "lost", &ledger, &gone)).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while counts.snapshot().retried == 0 {
            assert!(Instant::now() < deadline, "nothing was tried");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(ledger.len(), 4, "an event counts as told though it is not there");
        std::fs::create_dir(&missing).expect("a folder");
        while ledger.first() != Some(4) {
            assert!(Instant::now() < deadline, "the events were not told");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(told(&path), ["new", "paid"]);
        let snapshot = counts.snapshot();
        assert_eq!((snapshot.delivered, snapshot.filtered), (2, 1));
    }
}
