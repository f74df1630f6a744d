//! The conditional writes that an agent makes to one replica.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::AttributeValue;

use crate::fault::Fault;
use crate::protocol::{Action, Body, Item, Nonce, STAMP, STAMP_MAGIC, Stamp, Write};

/// What became of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Applied,
    /// The condition did not hold: the replica has something newer, or has this already.
    Outrun,
}

/// One physical table, to be written to.
#[derive(Debug)]
pub struct Replica {
    client: Client,
    table: String,
    nonces: Mutex<fastrand::Rng>,
}

/// Absent, unstamped, or with a stamp that no agent wrote: no well-formed stamp stands here. Else
/// the one that does must be lower.
const NO_STAMP_OR_LOWER: &str = "NOT begins_with(#tw, :magic) OR #tw < :bound";
/// An item with a lower stamp; one that an application has written meanwhile has none.
const LOWER_STAMP: &str = "begins_with(#tw, :magic) AND #tw < :bound";
const NO_STAMP: &str = "attribute_not_exists(#tw)";
const THIS_STAMP: &str = "#tw = :expected";

impl Replica {
    /// `client` must not retry by itself: each physical attempt needs a nonce of its own.
    pub fn new(client: Client, table: String, seed: u64) -> Self {
        Self { client, table, nonces: Mutex::new(fastrand::Rng::with_seed(seed)) }
    }

    /// Makes one attempt at a write.
    pub async fn attempt(&self, action: &Action) -> Result<Outcome, Fault> {
        match action {
            Action::Push(write) => self.write(write, NO_STAMP_OR_LOWER, Some(write), None).await,
            Action::Heal(write) => self.write(write, LOWER_STAMP, Some(write), None).await,
            Action::Restamp(write, None) => self.write(write, NO_STAMP, None, None).await,
            Action::Restamp(write, Some(stamp)) => self.write(write, THIS_STAMP, None, Some(stamp)).await,
            Action::CarryOut { key, mark } => self.carry_out(key, mark).await,
        }
    }

    async fn write(
        &self,
        write: &Write,
        condition: &str,
        below: Option<&Write>,
        expected: Option<&AttributeValue>,
    ) -> Result<Outcome, Fault> {
        let nonce = Nonce(self.nonces.lock().unwrap_or_else(PoisonError::into_inner).u64(..));
        let stamp = AttributeValue::S(write.stamp(nonce).to_string());
        let mut values = HashMap::new();
        if let Some(write) = below {
            values.insert(":magic".to_owned(), AttributeValue::S(STAMP_MAGIC.to_owned()));
            values.insert(":bound".to_owned(), AttributeValue::S(Stamp::bound(&write.version)));
        }
        if let Some(expected) = expected {
            values.insert(":expected".to_owned(), expected.clone());
        }
        match &write.body {
            Body::Put(item, _) => {
                let mut item = Item::clone(item);
                item.insert(STAMP.to_owned(), stamp);
                let call = self
                    .client
                    .put_item()
                    .table_name(&self.table)
                    .set_item(Some(item))
                    .condition_expression(condition)
                    .expression_attribute_names("#tw", STAMP)
                    .set_expression_attribute_values((!values.is_empty()).then_some(values));
                outcome(call.send().await)
            }
            Body::Delete => {
                values.insert(":stamp".to_owned(), stamp);
                let call = self
                    .client
                    .update_item()
                    .table_name(&self.table)
                    .set_key(Some(write.key.clone()))
                    .update_expression("SET #tw = :stamp")
                    .condition_expression(condition)
                    .expression_attribute_names("#tw", STAMP)
                    .set_expression_attribute_values(Some(values));
                outcome(call.send().await)
            }
        }
    }

    async fn carry_out(&self, key: &Item, mark: &AttributeValue) -> Result<Outcome, Fault> {
        let call = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key.clone()))
            .condition_expression(THIS_STAMP)
            .expression_attribute_names("#tw", STAMP)
            .expression_attribute_values(":expected", mark.clone());
        outcome(call.send().await)
    }
}

fn outcome<T, E>(result: Result<T, SdkError<E>>) -> Result<Outcome, Fault>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match result {
        Ok(_) => Ok(Outcome::Applied),
        Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(Outcome::Outrun),
        Err(error) => Err(error.into()),
    }
}
