//! How late peers were, and how stale readers' values were: computed afterwards, from the streams.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::checker::{Judgement, Version};
use crate::history::{History, Millis, Outcome};

/// How far apart the points of a series are.
pub const STEP: Millis = 250;

/// The lag from one region to another.
#[derive(Clone, Debug, Serialize)]
pub struct Lag {
    pub origin: usize,
    pub peer: usize,
    /// The age of the oldest write that has not arrived, every [`STEP`] milliseconds.
    pub series: Vec<Millis>,
    /// How long writes took: at most this for half of them, for 99 of 100, and for all.
    pub p50: Millis,
    pub p99: Millis,
    pub max: Millis,
}

/// A write on its way to a peer.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub origin: usize,
    pub peer: usize,
    pub from: Millis,
    /// When it, or a newer one, had arrived.
    pub to: Option<Millis>,
}

/// The longest time that a reader could see an older value.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stale {
    pub longest: Millis,
    pub region: Option<usize>,
    pub key: String,
    pub at: Millis,
    pub reads: usize,
    pub stale_reads: usize,
}

/// Every write's way to every peer.
pub fn ways(history: &History, judgement: &Judgement) -> Vec<Way> {
    let mut ways = Vec::new();
    for (key, issued) in &judgement.issued {
        let arrivals = judgement.arrivals.get(key).map_or(&[][..], Vec::as_slice);
        for (version, write) in issued {
            for peer in (0..history.regions.len()).filter(|peer| *peer != version.1) {
                if history.stored[peer].is_none() {
                    continue;
                }
                let arrived = arrivals.iter().filter(|a| a.region == peer && a.version >= *version);
                let to = arrived.map(|arrival| arrival.at).min();
                ways.push(Way { origin: version.1, peer, from: write.at, to });
            }
        }
    }
    ways
}

pub fn lags(ways: &[Way], end: Millis) -> Vec<Lag> {
    let mut pairs: BTreeMap<(usize, usize), Vec<Way>> = BTreeMap::new();
    for way in ways {
        pairs.entry((way.origin, way.peer)).or_default().push(*way);
    }
    let steps = usize::try_from(end / STEP).unwrap_or_default() + 1;
    pairs
        .into_iter()
        .map(|((origin, peer), ways)| {
            let mut series = vec![0; steps];
            for way in &ways {
                let to = way.to.unwrap_or(end).min(end);
                let first = way.from.div_ceil(STEP);
                for step in first..=to / STEP {
                    if let Some(point) = usize::try_from(step).ok().and_then(|step| series.get_mut(step)) {
                        *point = (*point).max(step * STEP - way.from);
                    }
                }
            }
            let mut took: Vec<Millis> =
                ways.iter().map(|way| way.to.unwrap_or(end).saturating_sub(way.from)).collect();
            took.sort_unstable();
            let at = |percent: usize| took.get((took.len() - 1) * percent / 100).copied().unwrap_or_default();
            Lag { origin, peer, series, p50: at(50), p99: at(99), max: at(100) }
        })
        .collect()
}

/// How stale readers' values were: for how long a newer write had been acknowledged by then.
pub fn stale(history: &History, judgement: &Judgement) -> Stale {
    // Acknowledged writes of each key, by version.
    let mut known: BTreeMap<&str, BTreeMap<Version, Millis>> = BTreeMap::new();
    for write in history.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged) {
        if let Some(version) = judgement.versions.get(&write.id) {
            known.entry(&write.key).or_default().insert(*version, write.done);
        }
    }
    let mut stale = Stale { reads: history.reads.len(), ..Stale::default() };
    for read in &history.reads {
        // An absent item may have been deleted, and a delete has no identity.
        let Some(version) = read.write.as_ref().and_then(|write| judgement.versions.get(write)) else {
            continue;
        };
        let Some(writes) = known.get(read.key.as_str()) else { continue };
        let newer = writes.range((version.0, version.1 + 1)..);
        let Some(since) = newer.map(|(_, done)| *done).filter(|done| *done < read.at).min() else { continue };
        stale.stale_reads += 1;
        if read.at - since > stale.longest {
            stale.longest = read.at - since;
            (stale.region, stale.key, stale.at) = (Some(read.region), read.key.clone(), read.at);
        }
    }
    stale
}
