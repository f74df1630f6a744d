//! Whether a replica's table is still the one that writes were begun for. It may be deleted and recreated, with
//! other keys, while an agent writes to it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::fault::{Fault, FaultKind};
use crate::region::Region;
use crate::schema::{KeySchema, describe};

/// How long one look at a table does for all that is about to be written.
const LOOK: Duration = Duration::from_secs(1);

/// Looks at a table again once an answer of it was odd.
#[derive(Debug)]
pub struct Fitness {
    region: Region,
    table: String,
    expected: KeySchema,
    in_doubt: AtomicBool,
    /// Why the table did not fit when it was looked at last.
    unfit: Mutex<Option<(Instant, Fault)>>,
}

impl Fitness {
    /// Of a table, by its name in the region, which was seen to have these keys.
    pub fn of(region: Region, table: String, expected: KeySchema) -> Self {
        Self { region, table, expected, in_doubt: AtomicBool::new(false), unfit: Mutex::default() }
    }

    /// The table was missing, or refused a write: it may be another one.
    pub(crate) fn doubt(&self) {
        self.in_doubt.store(true, Ordering::Relaxed);
    }

    /// Looks at the table, if that is in doubt: why nothing may be written to it. Whether it was seen to fit again.
    pub(crate) async fn prove(&self) -> Result<bool, Fault> {
        if !self.in_doubt.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut unfit = self.unfit.lock().await;
        if !self.in_doubt.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if let Some((at, fault)) = &*unfit
            && at.elapsed() < LOOK
        {
            return Err(fault.clone());
        }
        let described = describe(&self.region, &self.table).await?;
        let reason = match described.managed {
            Some(reason) => Some(reason),
            None if described.key_schema != self.expected => Some(format!(
                "the table {} has other keys, {}, and not {}: nothing is written to it until it is recreated",
                self.table, described.key_schema, self.expected
            )),
            None => None,
        };
        if let Some(message) = reason {
            let fault = Fault { kind: FaultKind::Missing, code: String::new(), message };
            *unfit = Some((Instant::now(), fault.clone()));
            return Err(fault);
        }
        self.in_doubt.store(false, Ordering::Relaxed);
        Ok(unfit.take().is_some())
    }

    /// Whether the table did not fit when it was looked at last.
    pub(crate) async fn is_unfit(&self) -> bool {
        self.unfit.lock().await.is_some()
    }
}
