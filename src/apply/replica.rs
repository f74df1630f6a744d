//! The conditional writes that an agent makes to one replica.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};

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
            Action::Push(write) => self.push(write).await,
            Action::Heal(write) => {
                self.write(write, LOWER_STAMP, Some(write), None).await.map(Answer::outcome)
            }
            Action::Restamp(write, stamp) => {
                let condition = if stamp.is_some() { THIS_STAMP } else { NO_STAMP };
                self.write(write, condition, None, stamp.as_ref()).await.map(Answer::outcome)
            }
            Action::CarryOut { key, mark } => self.carry_out(key, mark).await,
        }
    }

    async fn push(&self, write: &Write) -> Result<Outcome, Fault> {
        let answer = self.write(write, NO_STAMP_OR_LOWER, Some(write), None).await?;
        // What begins like a stamp but is none can sort above every version.
        if let Answer::Outrun(Some(stored)) = &answer
            && let Some(garbage) = Stamp::garbage(stored)
        {
            return self.write(write, THIS_STAMP, None, Some(garbage)).await.map(Answer::outcome);
        }
        Ok(answer.outcome())
    }

    async fn write(
        &self,
        write: &Write,
        condition: &str,
        below: Option<&Write>,
        expected: Option<&AttributeValue>,
    ) -> Result<Answer, Fault> {
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
                    .set_expression_attribute_values((!values.is_empty()).then_some(values))
                    .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
                answer(call.send().await, |error| match error {
                    PutItemError::ConditionalCheckFailedException(failed) => failed.item,
                    _ => None,
                })
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
                    .set_expression_attribute_values(Some(values))
                    .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
                answer(call.send().await, |error| match error {
                    UpdateItemError::ConditionalCheckFailedException(failed) => failed.item,
                    _ => None,
                })
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
        answer(call.send().await, |_| None).map(Answer::outcome)
    }
}

/// An outcome, with the stored item where the service told it.
enum Answer {
    Applied,
    Outrun(Option<Item>),
}

impl Answer {
    fn outcome(self) -> Outcome {
        match self {
            Self::Applied => Outcome::Applied,
            Self::Outrun(_) => Outcome::Outrun,
        }
    }
}

fn answer<T, E>(result: Result<T, SdkError<E>>, stored: fn(E) -> Option<Item>) -> Result<Answer, Fault>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match result {
        Ok(_) => Ok(Answer::Applied),
        Err(SdkError::ServiceError(error))
            if error.err().code() == Some("ConditionalCheckFailedException") =>
        {
            Ok(Answer::Outrun(stored(error.into_err())))
        }
        Err(error) => Err(error.into()),
    }
}
