//! Panics on a simulation's thread: agents contain those of libraries, and restart what panicked. Here, each
//! is a failure, whether an agent's own or the simulated service's.

use std::cell::RefCell;
use std::panic::{set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Records this thread's panics from now on.
pub fn watch() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let reason = panic.payload_as_str().unwrap_or("no message");
            SEEN.with_borrow_mut(|seen| seen.push(format!("panic at {place}: {reason}")));
            before(panic);
        }));
    });
    SEEN.take();
}

/// The panics recorded on this thread.
pub fn seen() -> Vec<String> {
    SEEN.with_borrow(Clone::clone)
}
