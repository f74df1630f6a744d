//! The attribute names that a table's items have.
//!
//! A condition can require that an attribute is there or is absent, but only one that it names. So a guard
//! sees an attribute that an application adds to an item only if the agent has met an attribute of that name
//! in any item of the table, or an agent of another region has, and has reported it with its watermark.

use std::collections::{BTreeSet, HashSet};
use std::sync::{PoisonError, RwLock};

use crate::protocol::{Item, STAMP};

/// How many are kept, in the order in which they were met; more fit no condition.
const MOST: usize = 128;

/// The names met so far.
#[derive(Debug, Default)]
pub struct AttributeNames(RwLock<Names>);

#[derive(Debug, Default)]
struct Names {
    all: HashSet<Box<str>>,
    in_order: Vec<Box<str>>,
    /// Whether there are more.
    is_full: bool,
}

impl AttributeNames {
    /// Adds the names of an item's attributes.
    pub fn note(&self, item: &Item) {
        self.learn(item.keys());
    }

    pub fn learn<'a>(&self, learnt: impl Iterator<Item = &'a String> + Clone) {
        let is_new = |names: &Names, name: &str| name != STAMP && !names.all.contains(name);
        {
            let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if names.is_full || !learnt.clone().any(|name| is_new(&names, name)) {
                return;
            }
        }
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let names = &mut *names;
        // An item's attributes come in no fixed order, and the first names met are the ones kept.
        let new: BTreeSet<&String> = learnt.filter(|name| is_new(names, name)).collect();
        for name in new {
            if names.in_order.len() == MOST {
                names.is_full = true;
                return;
            }
            names.all.insert(name.as_str().into());
            names.in_order.push(name.as_str().into());
        }
    }

    pub fn all(&self) -> Vec<String> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.in_order.iter().map(ToString::to_string).collect()
    }

    /// Passes each name to `take` until one is refused. Returns whether these are all the names there are,
    /// and all were taken.
    pub(super) fn for_each(&self, mut take: impl FnMut(&str) -> bool) -> bool {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.in_order.iter().all(|name| take(name)) && !names.is_full
    }
}
