//! Whether a replica's table still fits the writes made for it. It may be deleted and recreated with other
//! keys while an agent writes to it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::fault::{Fault, FaultKind};
use crate::region::Region;
use crate::schema::{KeySchema, describe};

/// How long one check of a table is valid for the writes that follow.
const LOOK: Duration = Duration::from_secs(1);

/// Checks a table again after an odd answer from it.
#[derive(Debug)]
pub struct Fitness {
    region: Region,
    table: String,
    expected: KeySchema,
    in_doubt: AtomicBool,
    /// Why the table did not fit at the last check.
    unfit: Mutex<Option<(Instant, Fault)>>,
}

impl Fitness {
    /// For a table, by its name in the region, that was found to have these keys.
    pub fn of(region: Region, table: String, expected: KeySchema) -> Self {
        Self { region, table, expected, in_doubt: AtomicBool::new(false), unfit: Mutex::default() }
    }

    /// Records doubt: the table was missing or refused a write, so it may be another one.
    pub(crate) fn doubt(&self) {
        self.in_doubt.store(true, Ordering::Relaxed);
    }

    /// Checks the table if it is in doubt; fails with the reason why nothing may be written to it. Returns
    /// whether it was found to fit again.
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
                "the table {} has other keys ({}, not {}): nothing is written to it until it is recreated",
                self.table, described.key_schema, self.expected
            )),
            None => None,
        };
        if let Some(message) = reason {
            let fault = Fault::new(FaultKind::Missing, message);
            *unfit = Some((Instant::now(), fault.clone()));
            return Err(fault);
        }
        self.in_doubt.store(false, Ordering::Relaxed);
        Ok(unfit.take().is_some())
    }

    /// Whether the table did not fit at the last check.
    pub(crate) async fn is_unfit(&self) -> bool {
        self.unfit.lock().await.is_some()
    }
}
