//! A write on its way to a replica, and what a record asks to be done with it.

use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{Fingerprint, Floors, Item, Nonce, Stamp, Version};

/// What a write puts in place.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// An item, without its stamp, and its fingerprint.
    Put(Arc<Item>, Fingerprint),
    Delete,
}

/// One version of one key, on its way to a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub key: Item,
    pub version: Version,
    pub base: Option<Version>,
    pub body: Body,
    /// The image that the write replaced at its origin; for a heal, the image that the heal replaces.
    pub replaced: Option<Arc<Item>>,
    /// What is stored where it was written, if that is an item.
    pub home: Option<Home>,
}

/// What the origin's stream showed of a write: this is stored at home, whatever its peers get of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Home {
    pub fingerprint: Fingerprint,
    /// The stamp attribute beside it.
    pub beside: Option<AttributeValue>,
}

/// A write that a record asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// At every peer: put the item, or set the mark.
    Push(Write),
    /// Here: put a newer version back over an older replicated one, or over another one that came meanwhile.
    /// What belongs to the past does not come again: if it is found, an application has put a copy back.
    Heal(Write, Past),
    /// Here: set the write's stamp beside what is stored. An application may have written again since; then
    /// the stamp shows that what is stored is newer than the write.
    Restamp(Write),
    /// Here: delete the marked item.
    ApplyDelete { key: Item, marked: Arc<Item> },
}

/// Which stamps of a key can't arrive any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Past {
    /// Those that have been here, as far as the floors do not cover them.
    pub nonces: Box<[Nonce]>,
    pub floors: Floors,
    /// The versions of heals that may still arrive, whatever the floors say.
    pub heals: Box<[Version]>,
}

impl Past {
    pub(super) fn has(&self, stamp: &Stamp) -> bool {
        let is_late = self.floors.passed(stamp.comes_until()) && !self.heals.contains(&stamp.version);
        self.nonces.contains(&stamp.nonce) || is_late
    }
}

impl Action {
    pub fn key(&self) -> &Item {
        match self {
            Self::Push(write) | Self::Heal(write, _) | Self::Restamp(write) => &write.key,
            Self::ApplyDelete { key, .. } => key,
        }
    }

    /// The write that it makes, unless it applies a delete.
    pub fn write(&self) -> Option<&Write> {
        match self {
            Self::Push(write) | Self::Heal(write, _) | Self::Restamp(write) => Some(write),
            Self::ApplyDelete { .. } => None,
        }
    }

    /// Absorbs an older queued push of the same key to the same peer that this push is based on exactly.
    /// Returns whether it did; the older one need not be made then.
    ///
    /// Together they are one write on top of what the first was based on: that is what it replaces at the
    /// peer, and a peer that made that write itself must find it as the base, or it takes a succession for a
    /// conflict. If something came between the two, the peer may have to report a conflict with the first.
    pub fn coalesce(&mut self, before: &Self) -> bool {
        let (Self::Push(write), Self::Push(before)) = (self, before) else { return false };
        let succeeds = write.base.as_ref() == Some(&before.version);
        if succeeds {
            write.base.clone_from(&before.base);
            write.replaced.clone_from(&before.replaced);
        }
        succeeds
    }
}
