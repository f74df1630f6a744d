//! The guard: what a conditional write expects to find, so that it replaces nothing that its writer has not
//! seen.
//!
//! Until an agent has read an application's write, no condition on a stamp keeps another agent's write from
//! landing on top of it. A condition on the data does: each write names the data that it replaces. If
//! something else is stored, the service's answer shows it, and [`Action::next`] says what follows.

use aws_sdk_dynamodb::types::AttributeValue;

use super::record::same_data;
use super::stamp::{Stamp, StampKind, Stamped};
use super::{Action, Body, Fingerprint, Item, Nonce, Origin, STAMP, Version, Write};

/// What must be stored for a write to take effect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Guard<'a> {
    /// No item.
    Absent,
    /// An item with the data of `image` or, with `or_absent`, no item.
    Data { image: &'a Item, stamp: StampGuard<'a>, or_absent: bool },
    /// Exactly this item, including its stamp.
    Exactly(&'a Item),
    /// An item with exactly this stamp attribute, or without one, whatever its data.
    Stamp(Option<&'a AttributeValue>),
    /// Anything, or nothing, without a stamp of this version or above.
    Below(&'a Version),
}

/// What must be in the stamp attribute beside the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StampGuard<'a> {
    /// A stamp of exactly this version.
    Of(&'a Version),
    /// None of this version or above.
    Below(&'a Version),
}

/// What follows if something other than expected is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Something newer is stored, or something that a later record of the own stream shows.
    Superseded,
    /// An older replicated write is stored: expect exactly what was found.
    Again,
    /// A write is stored that its region's agent has not reported yet; or no item where one was expected.
    Contended,
}

impl<'a> Guard<'a> {
    /// Expects exactly what was found.
    pub fn exactly(found: Option<&'a Item>) -> Self {
        found.map_or(Self::Absent, Self::Exactly)
    }

    /// Whether the guard holds for what is stored. The service decides this; this is a definition of what it
    /// is asked.
    pub fn holds(&self, stored: Option<&Item>) -> bool {
        match (*self, stored) {
            (Self::Absent | Self::Data { or_absent: true, .. } | Self::Below(_), None) => true,
            (_, None) | (Self::Absent, Some(_)) => false,
            (Self::Data { image, stamp, .. }, Some(stored)) => {
                stamp.holds(stored) && same_data(image, stored)
            }
            (Self::Exactly(image), Some(stored)) => {
                image.get(STAMP) == stored.get(STAMP) && same_data(image, stored)
            }
            (Self::Stamp(stamp), Some(stored)) => stamp == stored.get(STAMP),
            (Self::Below(version), Some(stored)) => StampGuard::Below(version).holds(stored),
        }
    }

    /// The data that is known to be stored below the write, if it takes effect.
    fn data(&self) -> Option<&'a Item> {
        match self {
            Self::Data { image, .. } | Self::Exactly(image) => Some(image),
            Self::Absent | Self::Stamp(_) | Self::Below(_) => None,
        }
    }
}

impl StampGuard<'_> {
    fn holds(self, stored: &Item) -> bool {
        match (self, stored.get(STAMP)) {
            (Self::Of(version), Some(AttributeValue::S(text))) => Stamp::range(version).contains(text),
            (Self::Of(_), _) => false,
            (Self::Below(version), Some(AttributeValue::S(text))) => {
                !Stamp::range_from(version).contains(text)
            }
            (Self::Below(_), _) => true,
        }
    }
}

impl Write {
    /// The stamp of one physical attempt to make this write with this guard.
    pub fn stamp(&self, nonce: Nonce, guard: &Guard<'_>) -> Stamp {
        self.stamp_of(
            nonce,
            match self.body {
                Body::Put(_, fingerprint) => StampKind::Put(fingerprint),
                Body::Delete => StampKind::Mark(self.marked(guard)),
            },
        )
    }

    /// The stamp of one physical attempt to set it beside what is stored at home.
    pub fn stamp_at_home(&self, nonce: Nonce) -> Stamp {
        let fingerprint = self.home.as_ref().map_or(Fingerprint::UNKNOWN, |home| home.fingerprint);
        self.stamp_of(nonce, StampKind::Put(fingerprint))
    }

    fn stamp_of(&self, nonce: Nonce, kind: StampKind) -> Stamp {
        Stamp { version: self.version.clone(), base: self.base.clone(), kind, nonce }
    }

    /// The fingerprint that a mark with this guard records of the data below it.
    fn marked(&self, guard: &Guard<'_>) -> Fingerprint {
        match guard {
            Guard::Absent => Fingerprint::of(&self.key),
            _ => guard.data().map_or(Fingerprint::UNKNOWN, Fingerprint::of),
        }
    }
}

impl Action {
    /// What the first attempt in a region expects: for a push, what the write replaced at its origin, which
    /// is what is stored at a peer that agreed; for everything else, what was shown by the record that asked
    /// for it.
    ///
    /// Two regions may have written the same data. But what the write replaced has its version everywhere,
    /// and states it wherever it was not made.
    pub fn guard(&self, to: &Origin) -> Guard<'_> {
        match self {
            Self::Push(write) => {
                let Some(image) = write.replaced.as_deref() else { return Guard::Absent };
                // A marked item is about to be deleted, here and there.
                let is_marked = Stamped::read(image).stamp().is_some_and(Stamp::is_mark);
                let stamp = match &write.base {
                    Some(base) if base.origin != *to && !is_marked => StampGuard::Of(base),
                    _ => StampGuard::Below(&write.version),
                };
                Guard::Data { image, stamp, or_absent: is_marked || write.body == Body::Delete }
            }
            Self::Heal(write, _) => Guard::exactly(write.replaced.as_deref()),
            Self::Restamp(write) => Guard::Stamp(write.home.as_ref().and_then(|home| home.beside.as_ref())),
            Self::ApplyDelete { marked, .. } => Guard::Exactly(marked),
        }
    }

    /// What follows if this was found in place of what was expected.
    pub fn next(&self, to: &Origin, found: Option<&Item>) -> Next {
        let stamp = found.map_or(Stamped::No, Stamped::read);
        match self {
            Self::Push(write) => match (found, stamp.stamp()) {
                (_, Some(stamp)) if stamp.version >= write.version => Next::Superseded,
                (None, _) if write.body == Body::Delete => Next::Again,
                // A mark where there was no item: so there is none, as above.
                (Some(found), Some(stamp)) if stamp.is_bare(found, &write.key) => {
                    let may_be_absent = write.body == Body::Delete || self.guard(to).holds(None);
                    if may_be_absent { Next::Again } else { Next::Contended }
                }
                // What was stamped elsewhere was put back by an application.
                (Some(found), Some(stamp)) if stamp.fits(found, &write.key) && stamp.nonce.is_of(to) => {
                    Next::Again
                }
                _ => Next::Contended,
            },
            // Another write has arrived; its record asks for no heal, since this one is in progress.
            Self::Heal(write, past) => match (found, stamp.stamp()) {
                (Some(found), Some(stamp))
                    if stamp.version < write.version
                        && stamp.fits(found, &write.key)
                        && stamp.nonce.is_of(to)
                        && !past.has(stamp) =>
                {
                    Next::Again
                }
                _ => Next::Superseded,
            },
            // Anything that an application wrote here after the record is newer than the write, whether its
            // agent has read it or not; and the stamp says so, beside data that it does not fit. After a
            // delete, that is whatever an application wrote.
            Self::Restamp(write) => match (found, stamp.stamp()) {
                (Some(_), None) => Next::Again,
                (Some(found), Some(stamp))
                    if stamp.version < write.version && !stamp.fits(found, &write.key) =>
                {
                    Next::Again
                }
                _ => Next::Superseded,
            },
            Self::ApplyDelete { .. } => Next::Superseded,
        }
    }
}
