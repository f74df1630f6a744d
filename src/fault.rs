//! Failures of a call, sorted by what to do about them: the only retry policy.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::ThrottlingReason;
use aws_sdk_dynamodb::types::error::{ProvisionedThroughputExceededException, ThrottlingException};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder, Retryable};

use crate::answer::NotAnAnswer;

/// What to do about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The service asks for fewer calls: wait, and retry.
    Throttled,
    /// The service asks for fewer calls to some keys, and the table has room for others: wait, and retry.
    HotPartition,
    /// No answer, or a transient fault of the service: retry.
    Unreachable,
    /// Credentials or permissions: a person has to act; retry now and then.
    Refused,
    /// The table or the stream is missing: a person has to act; retry now and then.
    Missing,
    /// The call itself can never succeed.
    Invalid,
}

impl FaultKind {
    /// Sorts an error by the service's code, as documented in "Error handling with DynamoDB".
    fn of_code(code: &str) -> Self {
        match code {
            "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "ThrottlingException"
            | "Throttling"
            | "LimitExceededException"
            | "ReplicatedWriteConflictException" => Self::Throttled,
            _ if refuses_credentials(code) => Self::Refused,
            "AccessDeniedException"
            | "IncompleteSignatureException"
            | "MissingAuthenticationTokenException"
            | "MissingAuthenticationToken"
            | "OptInRequired" => Self::Refused,
            "ResourceNotFoundException" => Self::Missing,
            "ValidationException" | "SerializationException" | "ItemCollectionSizeLimitExceededException" => {
                Self::Invalid
            }
            // ResourceInUse, TransactionConflict, InternalServerError, ServiceUnavailable, and unknown codes:
            // retrying loses nothing.
            _ => Self::Unreachable,
        }
    }

    /// Whether the service asks for fewer calls, to the table or to some of its keys.
    pub fn is_throttling(self) -> bool {
        matches!(self, Self::Throttled | Self::HotPartition)
    }

    /// What a person can do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Refused => {
                "Check the credentials (`aws sts get-caller-identity` shows whose they are) and the permissions."
            }
            Self::Missing => {
                "Run `tradewind init`, or `tradewind init --create-tables` to make what is missing."
            }
            Self::Unreachable => {
                "Check the endpoint in regions.toml, the network, and that the service is up."
            }
            Self::Throttled | Self::HotPartition => {
                "The service asks for fewer calls: retry later, or raise the table's capacity."
            }
            Self::Invalid => "The service rejects this call: check the names in regions.toml.",
        }
    }

    /// The shortest and longest wait before a retry.
    fn delays(self) -> (Duration, Duration) {
        let (least, most) = match self {
            Self::Throttled | Self::HotPartition => (50, 5_000),
            Self::Unreachable => (100, 5_000),
            Self::Refused | Self::Missing | Self::Invalid => (1_000, 15_000),
        };
        (Duration::from_millis(least), Duration::from_millis(most))
    }
}

/// A failed call: which call, where, and what the service said.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: FaultKind,
    pub code: String,
    pub message: String,
}

impl Fault {
    /// A fault that no service has reported.
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, code: String::new(), message: message.into() }
    }

    /// Whether a call that can never succeed was refused only for the size of its item: other items may pass.
    pub fn is_of_item(&self) -> bool {
        let message = self.message.to_lowercase();
        self.code == "ItemCollectionSizeLimitExceededException"
            || (message.contains("size") && message.contains("exceeded"))
    }
}

/// Makes a call that may take so long, and no longer; `what` begins the message if it takes longer.
pub(crate) fn in_time<T>(
    limit: Duration,
    what: &'static str,
    call: impl Future<Output = Result<T, Fault>>,
) -> impl Future<Output = Result<T, Fault>> {
    // Boxed: the SDK's calls are large.
    let call = tokio::time::timeout(limit, Box::pin(call));
    async move {
        call.await.unwrap_or_else(|_| {
            Err(Fault::new(FaultKind::Unreachable, format!("{what} within {} s", limit.as_secs())))
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, message, .. } = self;
        match (code.is_empty(), message.is_empty()) {
            (false, false) => write!(f, "{code}: {message}"),
            (false, true) => f.write_str(code),
            _ => f.write_str(message),
        }
    }
}

impl Error for Fault {}

impl From<BuildError> for Fault {
    fn from(error: BuildError) -> Self {
        Self::new(FaultKind::Invalid, error.to_string())
    }
}

impl<E, R> From<SdkError<E, R>> for Fault
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    R: fmt::Debug + Send + Sync + 'static,
{
    fn from(error: SdkError<E, R>) -> Self {
        let code = error.code().unwrap_or_default().to_owned();
        let mut message = error.message().unwrap_or_default().to_owned();
        let lacking = lacking_credentials(&error);
        if let Some(other) = causes(&error).find_map(<dyn Error>::downcast_ref::<NotAnAnswer>) {
            message = other.to_string();
        } else if let Some(lacking) = &lacking {
            message.clone_from(lacking);
        }
        if message.is_empty() {
            message = chain(&error);
        }
        let kind = match &error {
            SdkError::ServiceError(_) => match FaultKind::of_code(&code) {
                FaultKind::Throttled if is_of_few_keys(&error) => FaultKind::HotPartition,
                kind => kind,
            },
            _ if lacking.is_some() => FaultKind::Refused,
            SdkError::ConstructionFailure(_) => FaultKind::Invalid,
            _ => FaultKind::Unreachable,
        };
        Self { kind, code, message }
    }
}

/// An error, and what caused it.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Why there were no credentials to sign the request with, if that is the cause.
fn lacking_credentials(error: &(dyn Error + 'static)) -> Option<String> {
    let lacking = causes(error).find(|error| error.is::<CredentialsError>())?;
    // Its own text says only that it failed.
    Some(chain(lacking.source().unwrap_or(lacking)))
}

/// Whether an error code says that the service rejects the credentials, or no longer accepts them.
pub(crate) fn refuses_credentials(code: &str) -> bool {
    matches!(
        code,
        "UnrecognizedClientException"
            | "InvalidSignatureException"
            | "InvalidClientTokenId"
            | "ExpiredTokenException"
    )
}

/// Whether a call was throttled only for the throughput of a key range, and not for the table's or the
/// account's ([`ThrottlingReason`]; other stores may give none).
fn is_of_few_keys(error: &(dyn Error + 'static)) -> bool {
    let reasons = causes(error).find_map(|error| {
        let exceeded = error.downcast_ref().map(ProvisionedThroughputExceededException::throttling_reasons);
        exceeded.or_else(|| error.downcast_ref().map(ThrottlingException::throttling_reasons))
    });
    let is_range = |reason: &ThrottlingReason| {
        reason.reason().is_some_and(|reason| reason.ends_with("KeyRangeThroughputExceeded"))
    };
    reasons.is_some_and(|reasons| !reasons.is_empty() && reasons.iter().all(is_range))
}

/// An error with its causes, in one line; a cause that repeats the one before is omitted.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1) {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
    }
    text
}

/// How long to wait after each failed attempt at one thing.
///
/// Delays double, with jitter, from the kind's shortest to its longest.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Backoff {
    /// The delay after a failure of this kind.
    pub fn next(&mut self, kind: FaultKind) -> Duration {
        let (least, most) = kind.delays();
        self.0.next().map_or(most, |delay| delay.clamp(least, most))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self(backoff().build())
    }
}

fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(15))
        .without_max_times()
        .with_jitter()
}

/// Retries until the call succeeds, or until it can never succeed. `notify` is called for each failed
/// attempt.
///
/// It waits as [`Backoff`] says. Cancel by dropping the future.
pub async fn persist<T, F>(attempt: impl FnMut() -> F, notify: impl FnMut(&Fault)) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut notify = notify;
    attempt
        .retry(backoff())
        .when(|fault| fault.kind != FaultKind::Invalid)
        .adjust(|fault, delay| {
            let (least, most) = fault.kind.delays();
            delay.map(|delay| delay.clamp(least, most))
        })
        .notify(|fault, _| notify(fault))
        .await
}

/// Retries until the call succeeds, whatever the fault: for what must not be left undone. `notify` is called
/// for each failed attempt.
///
/// It waits as [`Backoff`] says. Cancel by dropping the future.
pub async fn insist<T, F>(mut attempt: impl FnMut() -> F, mut notify: impl FnMut(&Fault)) -> T
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut backoff = Backoff::default();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(fault) => {
                notify(&fault);
                tokio::time::sleep(backoff.next(fault.kind)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::error::ErrorMetadata;
    use aws_sdk_dynamodb::operation::put_item::PutItemError;

    use super::*;

    #[test]
    fn a_hot_partition_is_told_from_a_table_that_has_no_room() {
        let throttled = |reasons: &[&str]| {
            let code = "ProvisionedThroughputExceededException";
            let mut error = ProvisionedThroughputExceededException::builder()
                .meta(ErrorMetadata::builder().code(code).build());
            for reason in reasons {
                error = error.throttling_reasons(ThrottlingReason::builder().reason(*reason).build());
            }
            let error = PutItemError::ProvisionedThroughputExceededException(error.build());
            Fault::from(SdkError::service_error(error, ())).kind
        };
        assert_eq!(throttled(&["TableWriteKeyRangeThroughputExceeded"]), FaultKind::HotPartition);
        let index = ["IndexWriteKeyRangeThroughputExceeded", "TableWriteKeyRangeThroughputExceeded"];
        assert_eq!(throttled(&index), FaultKind::HotPartition);
        let both = ["TableWriteKeyRangeThroughputExceeded", "TableWriteProvisionedThroughputExceeded"];
        assert_eq!(throttled(&both), FaultKind::Throttled);
        assert_eq!(throttled(&["TableWriteAccountLimitExceeded"]), FaultKind::Throttled);
        assert_eq!(throttled(&[]), FaultKind::Throttled);
    }
}
