//! A Lambda function, invoked as an event source mapping invokes it.

use std::time::Duration;

use aws_sdk_lambda::Client;
use aws_sdk_lambda::config::retry::RetryConfig;
use aws_sdk_lambda::config::timeout::TimeoutConfig;
use aws_sdk_lambda::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_lambda::operation::invoke::InvokeError;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use serde_json::{Value, json};

use super::{Batch, Delivery, Offer};
use crate::clock::moment;
use crate::config::LambdaConfig;
use crate::fault::{Fault, FaultKind, chain};
use crate::feed::{Limits, WindowCall};
use crate::region::Region;

/// What one invocation may send, less the braces around the records.
const MOST_BYTES: usize = (6 << 20) - 1_000;
/// The longest state that a window carries; one that is longer ends it.
const MOST_STATE: usize = (1 << 20) + 100_000;
/// How much longer than the function may run its answer is waited for.
const ANSWER: Duration = Duration::from_secs(10);
/// How much of a function's answer is told.
const TOLD: usize = 2_000;

/// A Lambda function.
#[derive(Debug)]
pub struct LambdaSink {
    client: Client,
    config: LambdaConfig,
}

impl LambdaSink {
    /// Invokes with the credentials and in the AWS region of an agent's region.
    pub fn new(config: LambdaConfig, region: &Region) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .operation_attempt_timeout(config.timeout + ANSWER)
            .build();
        let mut client = aws_sdk_lambda::config::Builder::from(region.sdk())
            .timeout_config(timeouts)
            // Each attempt is counted and logged.
            .retry_config(RetryConfig::disabled());
        if let Some(endpoint) = config.endpoint_in(&region.name) {
            client = client.endpoint_url(endpoint);
        }
        Self { client: Client::from_conf(client.build()), config }
    }

    pub(super) fn limits(&self) -> Limits {
        let LambdaConfig { batch_size, batching_window: window, tumbling_window: tumbling, .. } = self.config;
        let bytes = if tumbling.is_some() { MOST_BYTES - MOST_STATE } else { MOST_BYTES } - batch_size;
        Limits { events: batch_size, bytes, window, tumbling, span: None }
    }

    pub(super) fn slots(&self) -> u32 {
        self.config.parallelization
    }

    /// Whether the function is there and may be invoked.
    pub(super) async fn check(&self) -> Result<(), Fault> {
        let call = self.client.invoke().function_name(&self.config.function);
        let answer = call.invocation_type(InvocationType::DryRun).send();
        Box::pin(answer).await.map(|_| ()).map_err(|error| fault(&error))
    }

    /// Invokes the function, and returns what its answer says about the events.
    pub(super) async fn invoke(&self, batch: &Batch<'_>) -> Result<Delivery, Fault> {
        let payload = payload(batch);
        let call = self.client.invoke().function_name(&self.config.function).payload(Blob::new(payload));
        let answer = Box::pin(call.send()).await.map_err(|error| fault(&error))?;
        let body = answer.payload.map(Blob::into_inner).unwrap_or_default();
        if let Some(kind) = answer.function_error {
            let reason = format!("the function failed ({kind}): {}", told(&body));
            return Ok(rejected(0, false, reason));
        }
        let delivery = if self.config.report_batch_item_failures {
            judged(&body, &batch.events)
        } else {
            Delivery::Taken { state: None }
        };
        let is_within = batch.window.is_some_and(|window| !window.is_final);
        Ok(if is_within { with_state(delivery, &body) } else { delivery })
    }
}

fn rejected(from: usize, is_named: bool, reason: String) -> Delivery {
    Delivery::Rejected { from, is_named, reason, state: None }
}

fn payload(batch: &Batch<'_>) -> Vec<u8> {
    let Batch { events, window, shard, stream } = batch;
    let texts: Vec<&str> = events.iter().map(|event| event.text).collect();
    let records = texts.join(",");
    let more = window.map(|window| {
        let WindowCall { start_millis, end_millis, state, is_final, is_early } = window;
        let more = json!({
            "window": { "start": moment(*start_millis).to_string(), "end": moment(*end_millis).to_string() },
            "state": state,
            "shardId": shard,
            "eventSourceARN": stream,
            "isFinalInvokeForWindow": is_final,
            "isWindowTerminatedEarly": is_early,
        });
        more.to_string().replacen('{', ",", 1)
    });
    let end = more.unwrap_or_else(|| "}".to_owned());
    format!("{{\"Records\":[{records}]{end}").into_bytes()
}

/// What a call within a window has brought, with the state that the next one gets. Without a state, it has failed.
fn with_state(delivery: Delivery, body: &[u8]) -> Delivery {
    let answer = serde_json::from_slice::<Value>(body).unwrap_or_default();
    match (delivery, answer.get("state").cloned()) {
        (Delivery::Taken { .. }, state @ Some(_)) => Delivery::Taken { state },
        (Delivery::Taken { .. }, None) => {
            let reason =
                format!("the function's answer has no `state`, as one within a window must: {}", told(body));
            rejected(0, false, reason)
        }
        (Delivery::Rejected { from, is_named, reason, .. }, state) => {
            Delivery::Rejected { from, is_named, reason, state: state.filter(|_| from > 0) }
        }
        (delivery, _) => delivery,
    }
}

/// What a function's answer says of the events, by the rules of `ReportBatchItemFailures`: the first that it names
/// failed, and all after it with that; one that it names wrongly means that all failed.
fn judged(body: &[u8], events: &[Offer<'_>]) -> Delivery {
    let all = |reason: String| rejected(0, false, reason);
    let taken = Delivery::Taken { state: None };
    if body.is_empty() {
        return taken;
    }
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return all(format!("the function's answer is not JSON: {}", told(body)));
    };
    let failures = match answer.get("batchItemFailures") {
        _ if answer.is_null() => return taken,
        None if answer.is_object() => return taken,
        Some(Value::Null) => return taken,
        Some(Value::Array(failures)) => failures,
        _ => return all(format!("the function's answer names no batchItemFailures: {}", told(body))),
    };
    let position = |failure: &Value| {
        let named = failure.get("itemIdentifier")?.as_str()?;
        events.iter().position(|event| event.sequence == named)
    };
    match failures.iter().map(position).collect::<Option<Vec<_>>>() {
        None => all(format!("the function names an event that is not in its batch: {}", told(body))),
        Some(positions) => positions.into_iter().min().map_or(taken, |from| {
            rejected(from, true, format!("the function reports a failure: {}", told(body)))
        }),
    }
}

/// The beginning of an answer.
fn told(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(TOLD).collect()
}

/// What to do about a call that failed before the function had an answer.
fn fault(error: &SdkError<InvokeError>) -> Fault {
    let code = error.code().unwrap_or_default();
    let kind = match code {
        "TooManyRequestsException" | "EC2ThrottledException" | "ENILimitReachedException" => {
            FaultKind::Throttled
        }
        "ResourceNotFoundException" => FaultKind::Missing,
        "RequestTooLargeException" | "RequestEntityTooLargeException" | "InvalidRequestContentException" => {
            FaultKind::Invalid
        }
        "AccessDeniedException"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "ExpiredTokenException"
        | "KMSAccessDeniedException"
        | "KMSDisabledException"
        | "KMSInvalidStateException"
        | "KMSNotFoundException" => FaultKind::Refused,
        _ => FaultKind::Unreachable,
    };
    let message = match error.message() {
        Some(message) => message.to_owned(),
        None => chain(error),
    };
    Fault { kind, code: code.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers() -> Vec<Offer<'static>> {
        let offers = [(r#"{"n":1}"#, "1"), (r#"{"n":2}"#, "2"), (r#"{"n":3}"#, "3")];
        offers.map(|(text, sequence)| Offer { text, sequence, created_millis: 0 }).into()
    }

    #[test]
    fn events_become_the_records_of_one_event() {
        let sent = |batch: &Batch<'_>| serde_json::from_slice::<Value>(&payload(batch)).expect("JSON");
        let mut batch = Batch { events: offers(), shard: "shard", stream: "arn", window: None };
        assert_eq!(sent(&batch), json!({ "Records": [{ "n": 1 }, { "n": 2 }, { "n": 3 }] }));
        batch.events.clear();
        let window = WindowCall {
            start_millis: 1_800_000_000_000,
            end_millis: 1_800_000_060_000,
            state: json!({ "count": 3 }),
            is_final: true,
            is_early: false,
        };
        batch.window = Some(&window);
        assert_eq!(
            sent(&batch),
            json!({
                "Records": [],
                "window": { "start": "2027-01-15T08:00:00Z", "end": "2027-01-15T08:01:00Z" },
                "state": { "count": 3 },
                "shardId": "shard",
                "eventSourceARN": "arn",
                "isFinalInvokeForWindow": true,
                "isWindowTerminatedEarly": false,
            })
        );
    }

    #[test]
    fn a_functions_answer_is_read_by_lambdas_rules() {
        let named = |from| Some((from, true));
        let all = Some((0, false));
        for (answer, expected) in [
            ("", None),
            ("null", None),
            ("{}", None),
            (r#"{"batchItemFailures":null}"#, None),
            (r#"{"batchItemFailures":[]}"#, None),
            (r#"{"batchItemFailures":[{"itemIdentifier":"2"}]}"#, named(1)),
            (r#"{"batchItemFailures":[{"itemIdentifier":"3"},{"itemIdentifier":"2"}]}"#, named(1)),
            (r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#, all),
            (r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#, all),
            (r#"{"batchItemFailures":[{"id":"2"}]}"#, all),
            (r#"{"batchItemFailures":[{"itemIdentifier":"9"}]}"#, all),
            (r#"{"batchItemFailures":"2"}"#, all),
            ("Task timed out after 3.00 seconds", all),
            ("[]", all),
        ] {
            let found = match judged(answer.as_bytes(), &offers()) {
                Delivery::Rejected { from, is_named, .. } => Some((from, is_named)),
                _ => None,
            };
            assert_eq!(found, expected, "{answer}");
        }
    }

    #[test]
    fn a_call_within_a_window_must_return_a_state() {
        let taken = || Delivery::Taken { state: None };
        let state = Some(json!({ "n": 1 }));
        let answer = br#"{"state":{"n":1},"batchItemFailures":[]}"#;
        assert_eq!(with_state(taken(), answer), Delivery::Taken { state: state.clone() });
        assert!(matches!(with_state(taken(), b"{}"), Delivery::Rejected { from: 0, is_named: false, .. }));
        // Of a batch of which nothing was taken, the state does not count.
        for (from, expected) in [(0, None), (1, state)] {
            let part = with_state(rejected(from, true, String::new()), answer);
            assert!(matches!(part, Delivery::Rejected { state, .. } if state == expected));
        }
    }
}
