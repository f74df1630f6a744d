//! How far each region's writes are known to have arrived, and which times count for that.

use std::collections::BTreeMap;

use super::{Hlc, Origin, Version};

/// How far the creation times of one stream may go back, from one record to a later one, without anything
/// being lost. What is forgotten lies this much further back than a watermark says.
pub const SLACK_MILLIS: u64 = 60_000;

/// How far ahead of its own clock an agent believes a service's time. It is within the slack, so that nothing
/// is lost when a clock that was ahead by no more is corrected.
pub const AHEAD_MILLIS: u64 = SLACK_MILLIS / 2;

/// Whether an agent whose clock says `now` believes a time.
///
/// What is promised to others and what is forgotten depend on times that never sink. A time far ahead would
/// count until then, and make replicated writes pass for old copies.
pub fn is_credible(millis: u64, now: u64) -> bool {
    millis <= now.saturating_add(AHEAD_MILLIS)
}

fn less_slack(floor: Hlc) -> Hlc {
    Hlc::at_millis(floor.millis().saturating_sub(SLACK_MILLIS))
}

/// How far each region's writes are known to have arrived *and to have been read* here: no write of that
/// origin with a lower clock can appear in the local stream any more. For the region itself: everything that
/// its agent had to do here is done.
///
/// Floors come from durable watermarks, and only after the local stream has been read past the point at which
/// these were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floors(BTreeMap<Origin, Hlc>);

impl Floors {
    /// Raises the floor of one origin; a floor never sinks.
    pub fn raise(&mut self, origin: &Origin, to: Hlc) {
        let floor = self.0.entry(origin.clone()).or_default();
        *floor = (*floor).max(to);
    }

    /// Raises each floor to its value in another set.
    pub fn raise_all(&mut self, others: &Self) {
        others.iter().for_each(|(origin, floor)| self.raise(origin, floor));
    }

    pub fn get(&self, origin: &Origin) -> Hlc {
        self.0.get(origin).copied().unwrap_or_default()
    }

    /// The origins with their floors.
    pub fn iter(&self) -> impl Iterator<Item = (&Origin, Hlc)> {
        self.0.iter().map(|(origin, floor)| (origin, *floor))
    }

    /// The floors that an agent whose clock says `now` believes; the others count as unknown.
    #[must_use]
    pub fn credible(&self, now: u64) -> Self {
        let credible = |(origin, floor): &(&Origin, &Hlc)| {
            **origin == Origin::seeding() || is_credible(floor.millis(), now)
        };
        Self(self.0.iter().filter(credible).map(|(origin, floor)| (origin.clone(), *floor)).collect())
    }

    /// The lower floor of each origin: what holds in both sets.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let lower = |(origin, floor): (&Origin, &Hlc)| (origin.clone(), (*floor).min(other.get(origin)));
        Self(self.0.iter().map(lower).collect())
    }

    pub(super) fn passed(&self, version: &Version) -> bool {
        version.hlc < self.before(&version.origin)
    }

    /// No version of an origin below this can appear any more, and no seed of a hold below the seeders'
    /// floor.
    pub(super) fn before(&self, origin: &Origin) -> Hlc {
        let floor = self.get(origin);
        if *origin == Origin::seeding() { floor } else { less_slack(floor) }
    }

    /// Whether no seed written under this hold can appear any more.
    pub(super) fn is_over(&self, hold: u64) -> bool {
        Hlc::from(hold) < self.before(&Origin::seeding())
    }
}
