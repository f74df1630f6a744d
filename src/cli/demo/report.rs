//! What happened: the counts, the lag, and whether the replicas agree.

use std::fmt::Write;

use serde::Serialize;

use super::feed::Told;
use crate::agent::Agent;
use crate::lag::PeerLag;
use crate::operate::{Difference, Verification};
use crate::protocol::Origin;
use crate::tally::TallySnapshot;

/// What the demo did, and the result.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    seed: u64,
    regions: Vec<Origin>,
    pub(super) writes: Writes,
    agents: TallySnapshot,
    pub(super) agent_writes: u64,
    /// Agent writes per application write that changed something.
    agent_writes_per_write: f64,
    lag: Vec<Lag>,
    pub(super) writing_seconds: f64,
    pub(super) settling_seconds: f64,
    items_compared: u64,
    items_differing: u64,
    differences: Vec<Difference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) feed: Option<Told>,
}

/// The writes that the applications made.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Writes {
    pub(super) puts: u64,
    pub(super) updates: u64,
    pub(super) put_backs: u64,
    pub(super) deletes: u64,
    /// Increments, by ADD and by a conditional update.
    pub(super) counts: u64,
    pub(super) swaps: u64,
    pub(super) failed: u64,
    /// How often an application found its own item in the state before its last write.
    pub(super) rollbacks_seen: u64,
}

#[derive(Debug, Serialize)]
struct Lag {
    origin: Origin,
    peer: Origin,
    #[serde(flatten)]
    figures: PeerLag,
}

impl Writes {
    pub(super) fn add(&mut self, other: Self) {
        self.puts += other.puts;
        self.updates += other.updates;
        self.put_backs += other.put_backs;
        self.deletes += other.deletes;
        self.counts += other.counts;
        self.swaps += other.swaps;
        self.failed += other.failed;
        self.rollbacks_seen += other.rollbacks_seen;
    }

    fn made(&self) -> u64 {
        self.puts + self.updates + self.put_backs + self.deletes + self.counts + self.swaps
    }
}

impl Outcome {
    /// The counts that the agents report.
    pub(super) fn of(seed: u64, agents: &[Agent]) -> Self {
        let reports: Vec<_> = agents.iter().flat_map(|agent| agent.figures().report()).collect();
        let mut tally = TallySnapshot::default();
        let mut lag = Vec::new();
        let mut regions = Vec::new();
        for report in reports {
            tally += report.tally;
            let lags = report.lag.into_iter();
            lag.extend(lags.map(|(peer, figures)| Lag { origin: report.origin.clone(), peer, figures }));
            regions.push(report.origin);
        }
        let local = tally.local_writes().max(1);
        Self {
            seed,
            regions,
            writes: Writes::default(),
            agents: tally,
            agent_writes: tally.agent_writes(),
            agent_writes_per_write: u64_as_f64(tally.agent_writes()) / u64_as_f64(local),
            lag,
            writing_seconds: 0.0,
            settling_seconds: 0.0,
            items_compared: 0,
            items_differing: 0,
            differences: Vec::new(),
            feed: None,
        }
    }

    /// Adds what a comparison of the replicas found.
    pub(super) fn compared(&mut self, verification: Verification) {
        for table in verification.tables {
            self.items_compared += table.items_compared;
            self.items_differing += table.items_differing;
            self.differences.extend(table.differences);
        }
    }

    /// Whether nothing differs, no count went back, and the feed has told everything.
    pub(super) fn is_right(&self) -> bool {
        let is_told = self.feed.as_ref().is_none_or(Told::is_right);
        self.items_differing == 0 && self.writes.rollbacks_seen == 0 && is_told
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts for display")]
pub(super) fn u64_as_f64(count: u64) -> f64 {
    count as f64
}

/// The median lag of each origin → peer.
pub(super) fn lag_line(agents: &[Agent]) -> String {
    let mut line = "lag p50:".to_owned();
    for agent in agents {
        for table in agent.figures().report() {
            for (peer, lag) in &table.lag {
                let _ = write!(line, " {}→{peer} {:.0} ms", table.origin, lag.since_seen.p50_ms);
            }
        }
    }
    line
}

pub(super) fn text(outcome: &Outcome) -> String {
    let Outcome { writes, agents, .. } = outcome;
    let names: Vec<_> = outcome.regions.iter().map(Origin::as_str).collect();
    let mut lines = vec![
        format!("regions                  {}", names.join(", ")),
        format!(
            "writes made              {} ({} puts, {} updates, {} put-backs of old copies, {} deletes, {} counts)",
            writes.made(),
            writes.puts,
            writes.updates,
            writes.put_backs,
            writes.deletes,
            writes.counts + writes.swaps
        ),
    ];
    if writes.failed > 0 {
        lines.push(format!("writes that failed       {}", writes.failed));
    }
    lines.extend([
        format!("  that changed something {}", agents.local_writes()),
        format!(
            "replicated               {} (and {} superseded: the peer had something newer; {} coalesced into a \
             later one)",
            agents.replicated, agents.superseded, agents.coalesced
        ),
        format!("echoes suppressed        {}", agents.echoes),
        format!("conflicts                {} (last writer wins; counted, never silent)", agents.conflicts),
        format!("heals                    {}", agents.heals),
        format!("rollbacks seen by an application: {}", writes.rollbacks_seen),
        format!("agent writes per write   {:.2}", outcome.agent_writes_per_write),
        String::new(),
        format!(
            "{:<26}{:^29}  {:^29}",
            "lag, milliseconds", "from first seen by the agent", "from creation (whole seconds)"
        ),
        format!("{:<26}{:>9}{:>10}{:>10}  {:>9}{:>10}{:>10}", "", "p50", "p99", "max", "p50", "p99", "max"),
    ]);
    for Lag { origin, peer, figures } in &outcome.lag {
        let mut line = format!("{:<26}", format!("  {origin} → {peer}"));
        for lag in [&figures.since_seen, &figures.since_creation] {
            let _ = write!(line, "{:>9.0}{:>10.0}{:>10.0}  ", lag.p50_ms, lag.p99_ms, lag.max_ms);
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.push(String::new());
    lines.extend(outcome.differences.iter().map(|difference| format!("DIFFERS {difference}")));
    lines.push(format!(
        "settled {:.1} s after the last write: {} items compared, {} differing",
        outcome.settling_seconds, outcome.items_compared, outcome.items_differing
    ));
    lines.extend(outcome.feed.as_ref().map(Told::text));
    lines.push(format!("(tradewind demo --seed {} chooses the same writes again)", outcome.seed));
    lines.join("\n")
}
