//! The counters and gauges: what each collection reads, its name, its unit. docs/observability.md says what
//! each means, in one table.
//!
//! | attribute | whose |
//! | --- | --- |
//! | `region` | the region of the agent that reports |
//! | `peer` | the region that this agent writes to |
//! | `origin` | the region whose writes arrive here |
//! | `table` | the table's name in the configuration |

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use tokio::time::Instant;

use super::Board;
use crate::agent::{Backlog, Figures, TableStanding};
use crate::control::Agreement;
use crate::protocol::Origin;
use crate::tally::{TallySnapshot, count};
use crate::telemetry::meter;

/// All instruments of one collection read the same snapshot of the agents.
const FRESH: Duration = Duration::from_millis(500);

/// Takes a snapshot of the agents of this process, at most twice a second.
struct Look {
    agents: Vec<Figures>,
    last: Mutex<Option<(Instant, Arc<Vec<TableStanding>>)>>,
}

impl Look {
    fn standings(&self) -> Arc<Vec<TableStanding>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, standings)) if at.elapsed() < FRESH => Arc::clone(standings),
            _ => {
                let standings: Arc<Vec<_>> =
                    Arc::new(self.agents.iter().flat_map(Figures::standings).collect());
                *last = Some((Instant::now(), Arc::clone(&standings)));
                standings
            }
        }
    }
}

/// Registers the counters and gauges of these agents.
pub(crate) fn register_agents(agents: Vec<Figures>) {
    let meter = meter();
    let look = Arc::new(Look { agents, last: Mutex::default() });
    for (name, description, read) in TallySnapshot::COUNTERS {
        let (look, read) = (Arc::clone(&look), *read);
        let counter = meter.u64_observable_counter(format!("tradewind.{name}"));
        let counter = counter.with_description(description.trim());
        counter
            .with_callback(move |observer| {
                for table in look.standings().iter() {
                    observer.observe(read(&table.tally), &of_table(table));
                }
            })
            .build();
    }
    let gauge = |name, unit, description, observe: fn(&TableStanding, &dyn AsyncInstrument<f64>)| {
        let look = Arc::clone(&look);
        let gauge = meter.f64_observable_gauge(name).with_unit(unit).with_description(description);
        gauge
            .with_callback(move |observer| {
                look.standings().iter().for_each(|table| observe(table, observer));
            })
            .build();
    };
    gauge(
        "tradewind.watermark.age",
        "s",
        "Age of the oldest write that has not reached the peer yet",
        |table, observer| {
            for (peer, Backlog { age, .. }) in &table.backlogs {
                observer.observe(age.as_secs_f64(), &with(table, "peer", peer));
            }
        },
    );
    gauge(
        "tradewind.paused",
        "",
        "1 while an operator has paused writes to the peer, else 0",
        |table, observer| {
            for (peer, paused) in &table.paused {
                observer.observe(f64::from(u8::from(*paused)), &with(table, "peer", peer));
            }
        },
    );
    gauge(
        "tradewind.refused",
        "",
        "1 while the region refuses the writes of all keys as invalid, so that they wait, else 0",
        |table, observer| {
            for peer in table.paused.keys().chain([&table.region]) {
                let refuses = table.refused.contains_key(peer);
                observer.observe(f64::from(u8::from(refuses)), &with(table, "peer", peer));
            }
        },
    );
    gauge(
        "tradewind.backlog",
        "{record}",
        "Records that have been read but have not reached the peer yet",
        |table, observer| {
            for (peer, Backlog { records, .. }) in &table.backlogs {
                observer.observe(count(*records), &with(table, "peer", peer));
            }
        },
    );
    gauge(
        "tradewind.arrival.age",
        "s",
        "Age of what an origin has durably promised this region",
        |table, observer| {
            for (origin, age) in &table.arrivals {
                observer.observe(age.as_secs_f64(), &with(table, "origin", origin));
            }
        },
    );
    gauge(
        "tradewind.shard.unread",
        "s",
        "Time since the last read of the shard that has waited longest, among this agent's",
        |table, observer| {
            if let Some(longest) = table.unread.values().max() {
                observer.observe(longest.as_secs_f64(), &of_table(table));
            }
        },
    );
    gauge("tradewind.shards", "{shard}", "Shards that this agent reads", |table, observer| {
        observer.observe(count(table.unread.len()), &of_table(table));
    });
    gauge("tradewind.keys", "{key}", "Keys remembered in memory", |table, observer| {
        observer.observe(count(table.in_memory), &of_table(table));
    });
    gauge("tradewind.keys.on_disk", "{key}", "Keys remembered on disk", |table, observer| {
        observer.observe(count(table.on_disk), &of_table(table));
    });
    gauge("tradewind.replicating", "", "1 while the table is being replicated, else 0", |table, observer| {
        observer.observe(f64::from(u8::from(table.is_replicating)), &of_table(table));
    });
    agents_alive(&meter, look);
}

fn agents_alive(meter: &Meter, look: Arc<Look>) {
    let gauge = meter.u64_observable_gauge("tradewind.agents").with_unit("{agent}");
    gauge
        .with_description("Live agents of the region, as this agent sees it")
        .with_callback(move |observer| {
            for figures in &look.agents {
                if let Some((alive, _)) = figures.crew() {
                    let region = KeyValue::new("region", figures.region().to_string());
                    observer.observe(u64::try_from(alive.len()).unwrap_or(u64::MAX), &[region]);
                }
            }
        })
        .build();
}

/// Registers how long other regions have been silent, and whether tables' replicas agree.
pub(crate) fn register_boards(boards: Vec<Arc<Board>>) {
    let meter = meter();
    let gauge = |name, unit, description, read: fn(&Agreement) -> Option<f64>| {
        let boards = boards.clone();
        let gauge = meter.f64_observable_gauge(name).with_unit(unit).with_description(description);
        gauge
            .with_callback(move |observer| {
                for board in &boards {
                    let region = KeyValue::new("region", board.figures().region().to_string());
                    for (table, agreement) in board.agreements() {
                        let of_table = [region.clone(), KeyValue::new("table", table)];
                        if let Some(figure) = read(&agreement) {
                            observer.observe(figure, &of_table);
                        }
                    }
                }
            })
            .build();
    };
    gauge(
        "tradewind.marks",
        "{mark}",
        "Marks on the table: writes that may be missing at peers, until verify finds no difference",
        |agreement| Some(count(agreement.gaps.len())),
    );
    gauge(
        "tradewind.verified.differing",
        "{item}",
        "Items that differed between the table's replicas when verify last compared them",
        |agreement| agreement.verified.map(|verified| count(verified.items_differing)),
    );
    gauge(
        "tradewind.verified.age",
        "s",
        "Time since verify last compared the table's replicas",
        |agreement| agreement.verified.map(|verified| verified.age().as_secs_f64()),
    );
    let answering = boards.clone();
    let counter = meter.u64_observable_counter("tradewind.intercepted").with_unit("{answer}");
    counter
        .with_description("Answers that came not from the region but from something in its place")
        .with_callback(move |observer| {
            for board in &answering {
                let region = KeyValue::new("region", board.figures().region().to_string());
                for (place, count) in board.intercepted() {
                    observer.observe(count, &[region.clone(), KeyValue::new("peer", place.to_string())]);
                }
            }
        })
        .build();
    let gauge = meter.f64_observable_gauge("tradewind.heartbeat.age");
    gauge
        .with_unit("s")
        .with_description("How overdue the next report from any of an origin's agents is")
        .with_callback(move |observer| {
            for board in &boards {
                let region = KeyValue::new("region", board.figures().region().to_string());
                for (origin, silence) in board.silences() {
                    let origin = KeyValue::new("origin", origin.to_string());
                    observer.observe(silence.as_secs_f64(), &[region.clone(), origin]);
                }
            }
        })
        .build();
}

fn of_table(table: &TableStanding) -> [KeyValue; 2] {
    [KeyValue::new("region", table.region.to_string()), KeyValue::new("table", table.table.clone())]
}

fn with(table: &TableStanding, role: &'static str, region: &Origin) -> Vec<KeyValue> {
    of_table(table).into_iter().chain([KeyValue::new(role, region.to_string())]).collect()
}
