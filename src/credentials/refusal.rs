//! Detects that a service refuses the credentials of a request, whichever call it was.

use aws_sdk_dynamodb::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};

use super::Kept;
use crate::fault::refuses_credentials;

/// Reloads credentials that are refused.
#[derive(Debug)]
pub(crate) struct Refusals(pub(crate) Kept);

impl Intercept for Refusals {
    fn name(&self) -> &'static str {
        "Refusals"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let response = context.response();
        if matches!(response.status().as_u16(), 400 | 401 | 403)
            && response.body().bytes().and_then(code).is_some_and(|code| refuses_credentials(&code))
        {
            self.0.refused();
        }
        Ok(())
    }
}

/// The error code in an answer's body: `{"__type": "com.amazon.coral.service#ExpiredTokenException"}`.
fn code(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let kind = body.get("__type")?.as_str()?;
    Some(kind.rsplit('#').next().unwrap_or(kind).to_owned())
}
