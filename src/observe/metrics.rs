//! The counters and gauges: what each collection reads, its name, its unit. docs/observability.md says what
//! each means, in one table.
//!
//! | attribute | whose |
//! | --- | --- |
//! | `region` | the region of the agent that reports |
//! | `peer` | the region that this agent writes to |
//! | `origin` | the region whose writes arrive here |
//! | `table` | the table's name in the configuration |
//! | `feed` | the feed's name |

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use tokio::time::Instant;

use super::Board;
use crate::agent::{Backlog, Figures, TableStanding};
use crate::control::Agreement;
use crate::feed::FeedName;
use crate::protocol::Origin;
use crate::tally::{FeedSnapshot, TallySnapshot, count};
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

/// A gauge of each table.
struct TableGauge {
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    observe: fn(&TableStanding, &dyn AsyncInstrument<f64>),
}

const TABLE_GAUGES: [TableGauge; 13] = [
    TableGauge {
        name: "tradewind.watermark.age",
        unit: "s",
        description: "Age of the oldest write that has not reached the peer yet",
        observe: |table, observer| {
            for (peer, Backlog { age, .. }) in &table.backlogs {
                observer.observe(age.as_secs_f64(), &with(table, "peer", peer));
            }
        },
    },
    TableGauge {
        name: "tradewind.paused",
        unit: "",
        description: "1 while an operator has paused writes to the peer, else 0",
        observe: |table, observer| {
            for (peer, paused) in &table.paused {
                observer.observe(flag(*paused), &with(table, "peer", peer));
            }
        },
    },
    TableGauge {
        name: "tradewind.refused",
        unit: "",
        description: "1 while the region refuses the writes of all keys as invalid, so that they wait, else 0",
        observe: |table, observer| {
            for peer in table.paused.keys().chain([&table.region]) {
                observer.observe(flag(table.refused.contains_key(peer)), &with(table, "peer", peer));
            }
        },
    },
    TableGauge {
        name: "tradewind.backlog",
        unit: "{record}",
        description: "Records that have been read but have not reached the peer yet",
        observe: |table, observer| {
            for (peer, Backlog { records, .. }) in &table.backlogs {
                observer.observe(count(*records), &with(table, "peer", peer));
            }
        },
    },
    TableGauge {
        name: "tradewind.arrival.age",
        unit: "s",
        description: "Age of what an origin has durably promised this region",
        observe: |table, observer| {
            for (origin, age) in &table.arrivals {
                observer.observe(age.as_secs_f64(), &with(table, "origin", origin));
            }
        },
    },
    TableGauge {
        name: "tradewind.shard.unread",
        unit: "s",
        description: "Time since the last read of the shard that has waited longest, among this agent's",
        observe: |table, observer| {
            if let Some(longest) = table.unread.values().max() {
                observer.observe(longest.as_secs_f64(), &of_table(table));
            }
        },
    },
    TableGauge {
        name: "tradewind.feed.age",
        unit: "s",
        description: "Age of the oldest write that the feed has not told yet",
        observe: |table, observer| {
            for (feed, standing) in &table.feeds {
                observer.observe(standing.age.as_secs_f64(), &of_feed(table, feed));
            }
        },
    },
    TableGauge {
        name: "tradewind.feed.backlog",
        unit: "{record}",
        description: "Records that have been read but that the feed has not told yet",
        observe: |table, observer| {
            for (feed, standing) in &table.feeds {
                observer.observe(count(standing.backlog), &of_feed(table, feed));
            }
        },
    },
    TableGauge {
        name: "tradewind.feed.blocked",
        unit: "{key}",
        description: "Keys whose events wait behind one that the feed's sink has rejected",
        observe: |table, observer| {
            for (feed, standing) in &table.feeds {
                observer.observe(count(standing.blocked), &of_feed(table, feed));
            }
        },
    },
    TableGauge {
        name: "tradewind.shards",
        unit: "{shard}",
        description: "Shards that this agent reads",
        observe: |table, observer| observer.observe(count(table.unread.len()), &of_table(table)),
    },
    TableGauge {
        name: "tradewind.keys",
        unit: "{key}",
        description: "Keys remembered in memory",
        observe: |table, observer| observer.observe(count(table.in_memory), &of_table(table)),
    },
    TableGauge {
        name: "tradewind.keys.on_disk",
        unit: "{key}",
        description: "Keys remembered on disk",
        observe: |table, observer| observer.observe(count(table.on_disk), &of_table(table)),
    },
    TableGauge {
        name: "tradewind.replicating",
        unit: "",
        description: "1 while the table is being replicated, else 0",
        observe: |table, observer| observer.observe(flag(table.is_replicating), &of_table(table)),
    },
];

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
    for (name, description, read) in FeedSnapshot::COUNTERS {
        let (look, read) = (Arc::clone(&look), *read);
        let counter = meter.u64_observable_counter(format!("tradewind.feed.{name}"));
        let counter = counter.with_description(description.trim());
        counter
            .with_callback(move |observer| {
                for table in look.standings().iter() {
                    for (feed, standing) in &table.feeds {
                        observer.observe(read(&standing.counts), &of_feed(table, feed));
                    }
                }
            })
            .build();
    }
    for TableGauge { name, unit, description, observe } in TABLE_GAUGES {
        let look = Arc::clone(&look);
        let gauge = meter.f64_observable_gauge(name).with_unit(unit).with_description(description);
        gauge
            .with_callback(move |observer| {
                look.standings().iter().for_each(|table| observe(table, observer));
            })
            .build();
    }
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

/// A gauge of what is known about each table's replicas together.
struct AgreementGauge {
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    read: fn(&Agreement) -> Option<f64>,
}

const AGREEMENT_GAUGES: [AgreementGauge; 3] = [
    AgreementGauge {
        name: "tradewind.marks",
        unit: "{mark}",
        description: "Marks on the table: writes that may be missing at peers, until verify finds no difference",
        read: |agreement| Some(count(agreement.gaps.len())),
    },
    AgreementGauge {
        name: "tradewind.verified.differing",
        unit: "{item}",
        description: "Items that differed between the table's replicas when verify last compared them",
        read: |agreement| agreement.verified.map(|verified| count(verified.items_differing)),
    },
    AgreementGauge {
        name: "tradewind.verified.age",
        unit: "s",
        description: "Time since verify last compared the table's replicas",
        read: |agreement| agreement.verified.map(|verified| verified.age().as_secs_f64()),
    },
];

/// Registers how long other regions have been silent, and whether tables' replicas agree.
pub(crate) fn register_boards(boards: Vec<Arc<Board>>) {
    let meter = meter();
    for AgreementGauge { name, unit, description, read } in AGREEMENT_GAUGES {
        let boards = boards.clone();
        let gauge = meter.f64_observable_gauge(name).with_unit(unit).with_description(description);
        gauge
            .with_callback(move |observer| {
                for board in &boards {
                    for (table, agreement) in board.agreements() {
                        if let Some(figure) = read(&agreement) {
                            observer.observe(figure, &[of_region(board), KeyValue::new("table", table)]);
                        }
                    }
                }
            })
            .build();
    }
    let answering = boards.clone();
    let counter = meter.u64_observable_counter("tradewind.intercepted").with_unit("{answer}");
    counter
        .with_description("Answers that came not from the region but from something in its place")
        .with_callback(move |observer| {
            for board in &answering {
                for (place, count) in board.intercepted() {
                    observer.observe(count, &[of_region(board), KeyValue::new("peer", place.to_string())]);
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
                for (origin, silence) in board.silences() {
                    let origin = KeyValue::new("origin", origin.to_string());
                    observer.observe(silence.as_secs_f64(), &[of_region(board), origin]);
                }
            }
        })
        .build();
}

fn of_region(board: &Board) -> KeyValue {
    KeyValue::new("region", board.figures().region().to_string())
}

fn of_feed(table: &TableStanding, feed: &FeedName) -> Vec<KeyValue> {
    of_table(table).into_iter().chain([KeyValue::new("feed", feed.to_string())]).collect()
}

/// A flag as a figure: 1 or 0.
fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

fn of_table(table: &TableStanding) -> [KeyValue; 2] {
    [KeyValue::new("region", table.region.to_string()), KeyValue::new("table", table.table.clone())]
}

fn with(table: &TableStanding, role: &'static str, region: &Origin) -> Vec<KeyValue> {
    of_table(table).into_iter().chain([KeyValue::new(role, region.to_string())]).collect()
}
