//! A key as logs and traces show it: hashed, unless the operator allows the key itself.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::item_json::item_json;
use crate::protocol::{Item, KeyId};

static ALLOWED: AtomicBool = AtomicBool::new(false);

/// Shows keys as they are from now on.
pub fn allow_keys() {
    ALLOWED.store(true, Ordering::Relaxed);
}

/// The key, or the first 48 bits of its hash: enough to tell which lines concern one key.
pub fn log_key(key: &Item) -> String {
    if ALLOWED.load(Ordering::Relaxed) {
        item_json(key).to_string()
    } else {
        format!("#{}", &KeyId::of(key).to_string()[..12])
    }
}
