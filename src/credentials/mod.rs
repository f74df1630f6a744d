//! The credentials that sign the requests to a region, for the lifetime of the process.
//!
//! | file | subject |
//! | --- | --- |
//! | `source` | where they come from: what regions.toml says, or else where the AWS SDK looks |
//! | `refusal` | detects that the service refuses them |
//!
//! They are kept until shortly before they expire, and then reloaded; at once if the service refuses them. If
//! the source fails or hangs then, that is logged with its name, and the current ones are used as long as
//! they are valid.

mod refusal;
mod source;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, error::CredentialsError, future};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

use self::source::Asked;
use crate::clock::wall_clock;
use crate::contained::caught;
use crate::protocol::Origin;

pub(crate) use refusal::Refusals;
pub(crate) use source::{CredentialSource, ProfileError};

/// How long a request waits for credentials: less than an attempt may take, which would be reported as an
/// endpoint that does not answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a source may take in all, including a person who types a code.
const LONGEST: Duration = Duration::from_mins(2);
/// How long before they expire they are reloaded.
const EARLY: Duration = Duration::from_mins(5);
/// How long credentials without an expiry are kept: a file may have others by then.
const UNDATED: Duration = Duration::from_mins(5);
/// The shortest and longest wait before a source that gave nothing new is asked again.
const SHORTEST_GAP: Duration = Duration::from_secs(2);
const LONGEST_GAP: Duration = Duration::from_mins(1);

/// Why there are no credentials.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NoCredentials {
    #[error("no credentials from {source_name}: {reason}")]
    Failed { source_name: String, reason: String },
    #[error("no credentials: {source_name} has not answered for {} s", waited.as_secs())]
    Hangs { source_name: String, waited: Duration },
}

/// The credentials of one region, as last loaded. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Kept(Arc<Inner>);

struct Inner {
    region: Origin,
    source: CredentialSource,
    asked: Asked,
    state: Mutex<State>,
    /// Counts loads, successful or not.
    rounds: watch::Sender<u64>,
}

struct State {
    credentials: Option<Credentials>,
    /// When to reload them.
    renew: Instant,
    /// Until then, a refusal tells nothing new.
    heed_refusals: Instant,
    gap: Duration,
    refused: bool,
    loading: bool,
    failure: Option<NoCredentials>,
}

impl Kept {
    pub(crate) fn from(region: Origin, source: CredentialSource) -> Self {
        let now = Instant::now();
        let state = State {
            credentials: None,
            renew: now,
            heed_refusals: now,
            gap: SHORTEST_GAP,
            refused: false,
            loading: false,
            failure: None,
        };
        let (asked, rounds) = (Asked::default(), watch::channel(0).0);
        Self(Arc::new(Inner { region, source, asked, state: Mutex::new(state), rounds }))
    }

    /// Records that the service rejects the credentials, or no longer accepts them.
    fn refused(&self) {
        let now = Instant::now();
        let mut state = self.0.lock();
        if now >= state.heed_refusals && !state.loading {
            state.refused = true;
            state.renew = now;
        }
    }

    async fn provide(&self) -> Result<Credentials, CredentialsError> {
        let begun = Instant::now();
        let mut rounds = self.0.rounds.subscribe();
        {
            let mut state = self.0.lock();
            if Instant::now() >= state.renew && !state.loading {
                state.loading = true;
                // In a task of its own: the request may be dropped earlier.
                tokio::spawn(Arc::clone(&self.0).load());
            }
            if let Some(credentials) = state.usable() {
                return Ok(credentials.clone());
            }
            if !state.loading {
                return state.without();
            }
        }
        if timeout_at(begun + PATIENCE, rounds.changed()).await.is_err() {
            let hangs = NoCredentials::Hangs { source_name: self.0.asked.name(), waited: PATIENCE };
            return Err(CredentialsError::provider_error(hangs));
        }
        let state = self.0.lock();
        state.usable().cloned().map_or_else(|| state.without(), Ok)
    }
}

impl State {
    /// By this machine's clock, which may be wrong: credentials just loaded are used in any case.
    fn usable(&self) -> Option<&Credentials> {
        let credentials = self.credentials.as_ref().filter(|_| !self.refused)?;
        let expiry = credentials.expiry();
        let is_valid = Instant::now() < self.renew || expiry.is_none_or(|expiry| expiry > wall_clock());
        is_valid.then_some(credentials)
    }

    /// The reason why there are none.
    fn without(&self) -> Result<Credentials, CredentialsError> {
        Err(self
            .failure
            .clone()
            .map_or_else(|| CredentialsError::not_loaded("not loaded yet"), CredentialsError::provider_error))
    }

    /// Records loaded credentials. Returns whether they differ from the previous ones.
    fn loaded(&mut self, credentials: Credentials) -> bool {
        let id = |of: &Credentials| (of.access_key_id().to_owned(), of.session_token().map(str::to_owned));
        let is_new = self.credentials.as_ref().map(id) != Some(id(&credentials));
        self.gap = if is_new { SHORTEST_GAP } else { self.longer_gap() };
        let left = credentials.expiry().map(|expiry| expiry.duration_since(wall_clock()).unwrap_or_default());
        let kept = match left {
            None => UNDATED,
            Some(left) if left > 2 * EARLY => left.saturating_sub(EARLY),
            Some(left) => left / 2,
        };
        let now = Instant::now();
        self.renew = now + kept.max(SHORTEST_GAP);
        self.heed_refusals = now + self.gap;
        self.failure = None;
        self.credentials.replace(credentials).is_some() && is_new
    }

    /// Records a failure. Returns whether it is a new one.
    fn failed(&mut self, failure: NoCredentials) -> bool {
        self.gap = self.longer_gap();
        let now = Instant::now();
        (self.renew, self.heed_refusals) = (now + self.gap, now + self.gap);
        let text = failure.to_string();
        self.failure.replace(failure).is_none_or(|before| before.to_string() != text)
    }

    fn longer_gap(&self) -> Duration {
        (2 * self.gap).min(LONGEST_GAP)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn load(self: Arc<Self>) {
        let had = timeout(LONGEST, caught(Box::pin(self.source.load(&self.asked)))).await;
        let source_name = self.asked.name();
        let had = match had {
            Ok(Ok(had)) => had,
            Ok(Err(panic)) => Err(NoCredentials::Failed {
                source_name,
                reason: format!("panicked, which is a defect: {panic}"),
            }),
            Err(_) => Err(NoCredentials::Hangs { source_name, waited: LONGEST }),
        };
        let region = &self.region;
        let mut state = self.lock();
        (state.loading, state.refused) = (false, false);
        match had {
            Ok(credentials) => {
                if state.loaded(credentials) {
                    info!(%region, "{} returned new credentials", self.asked.name());
                }
            }
            Err(failure) => {
                let text = format!("{failure}; the current ones are used as long as they are valid");
                // A failure of the first load is reported by whoever requested it.
                if state.failed(failure) && state.credentials.is_some() {
                    warn!(%region, "can't renew the credentials: {text} (retrying)");
                } else {
                    debug!(%region, "{text}");
                }
            }
        }
        drop(state);
        self.rounds.send_modify(|rounds| *rounds += 1);
    }
}

impl ProvideCredentials for Kept {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.provide())
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("region", &self.0.region).finish_non_exhaustive()
    }
}
