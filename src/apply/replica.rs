//! The conditional writes that an agent makes to one replica.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};

use crate::fault::Fault;
use crate::protocol::{
    Action, Body, Item, Nonce, Over, STAMP, STAMP_END, STAMP_MAGIC, Seed, Stamp, Version, Write,
};

/// Begins the stamp attribute of an item that is to be replicated anew. It sorts below every stamp,
/// so that it is in no push's way.
const TOUCHED: &str = "tw- ";

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

/// What must stand in an item's stamp attribute for a write to take effect.
#[derive(Clone, Copy)]
enum Condition<'a> {
    /// No stamp of this version or a higher one: the item is absent, or unstamped, or has a lower
    /// stamp. A range says so, since a value of another type lies in none.
    NoneOrLower,
    /// A lower stamp; an item that an application has written meanwhile has none.
    Lower,
    /// A lower stamp, or no item.
    AbsentOrLower,
    /// Nothing.
    None,
    /// Nothing, but an item.
    Unstamped,
    /// Exactly this.
    Exactly(&'a AttributeValue),
    /// What can't be.
    Never,
}

impl Condition<'_> {
    /// Whether the expression speaks of the key.
    fn has_key(self) -> bool {
        matches!(self, Self::AbsentOrLower | Self::Unstamped)
    }

    fn expression(self) -> &'static str {
        match self {
            Self::NoneOrLower => "NOT #tw BETWEEN :bound AND :end",
            Self::Lower => "#tw BETWEEN :magic AND :bound",
            Self::AbsentOrLower => "attribute_not_exists(#key) OR #tw BETWEEN :magic AND :bound",
            Self::None => "attribute_not_exists(#tw)",
            Self::Unstamped => "attribute_exists(#key) AND attribute_not_exists(#tw)",
            Self::Exactly(_) => "#tw = :expected",
            Self::Never => "attribute_exists(#tw) AND attribute_not_exists(#tw)",
        }
    }

    /// The values in the expression; DynamoDB allows no others.
    fn values(self, version: &Version) -> HashMap<String, AttributeValue> {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let bound = || (":bound".to_owned(), text(&Stamp::bound(version)));
        match self {
            Self::NoneOrLower => HashMap::from([bound(), (":end".to_owned(), text(STAMP_END))]),
            Self::Lower | Self::AbsentOrLower => {
                HashMap::from([bound(), (":magic".to_owned(), text(STAMP_MAGIC))])
            }
            Self::None | Self::Unstamped | Self::Never => HashMap::new(),
            Self::Exactly(value) => HashMap::from([(":expected".to_owned(), value.clone())]),
        }
    }
}

impl Replica {
    /// `client` must not retry by itself: each physical attempt needs a nonce of its own.
    pub fn new(client: Client, table: String, seed: u64) -> Self {
        Self { client, table, nonces: Mutex::new(fastrand::Rng::with_seed(seed)) }
    }

    /// Makes one attempt at a write.
    pub async fn attempt(&self, action: &Action) -> Result<Outcome, Fault> {
        match action {
            Action::Push(write) => self.push(write).await,
            Action::Heal(write) => self.write(write, Condition::Lower).await.map(Answer::outcome),
            Action::Restamp(write, stamp) => {
                let condition = stamp.as_ref().map_or(Condition::None, Condition::Exactly);
                self.write(write, condition).await.map(Answer::outcome)
            }
            Action::CarryOut { key, mark } => self.delete(key, Some(mark)).await,
        }
    }

    /// Makes one attempt at a seed.
    pub async fn seed(&self, seed: &Seed) -> Result<Outcome, Fault> {
        let condition = match &seed.over {
            Over::Older => Condition::AbsentOrLower,
            Over::Exactly(None) => Condition::Unstamped,
            Over::Exactly(Some(stamp)) => Condition::Exactly(stamp),
        };
        let answer = self.write(&seed.write, condition).await?;
        // A call that was made again may find what it wrote at first.
        let stands = |stored: &Item| Stamp::read(stored).is_some_and(|at| at.version == seed.write.version);
        Ok(match answer {
            Answer::Outrun(Some(stored)) if stands(&stored) => Outcome::Applied,
            answer => answer.outcome(),
        })
    }

    /// Whether the replica would take a put. Nothing is written: a service checks a write before it
    /// looks at its condition.
    pub async fn probe(&self, write: &Write) -> Result<(), Fault> {
        self.write(write, Condition::Never).await.map(|_| ())
    }

    /// Has the item that stands here replicated anew, whatever it is by then, where exactly this
    /// stamp attribute (or none) stands.
    ///
    /// The stamp becomes one that no agent writes, and so the agent takes the change for an
    /// application's. It is as long as the write's, and so refused where that would be.
    pub async fn touch(&self, write: &Write, expected: Option<&AttributeValue>) -> Result<Outcome, Fault> {
        let nonce = Nonce(self.nonces.lock().unwrap_or_else(PoisonError::into_inner).u64(..));
        let touched = write.stamp(nonce).to_string().replacen(STAMP_MAGIC, TOUCHED, 1);
        let condition = expected.map_or(Condition::None, Condition::Exactly);
        let mut values = condition.values(&write.version);
        values.insert(":touched".to_owned(), AttributeValue::S(touched));
        let mut call = self.client.update_item().table_name(&self.table).set_key(Some(write.key.clone()));
        let mut here = condition.expression().to_owned();
        for (i, name) in write.key.keys().enumerate() {
            call = call.expression_attribute_names(format!("#key{i}"), name);
            // A text takes whatever is written to it.
            let _ = write!(here, " AND attribute_exists(#key{i})");
        }
        let call = call
            .update_expression("SET #tw = :touched")
            .condition_expression(here)
            .expression_attribute_names("#tw", STAMP)
            .set_expression_attribute_values(Some(values));
        answer(call.send().await, |_| None).map(Answer::outcome)
    }

    /// Deletes an item as an application would, where exactly this stamp attribute (or none) stands.
    pub async fn delete(&self, key: &Item, expected: Option<&AttributeValue>) -> Result<Outcome, Fault> {
        let condition = expected.map_or(Condition::None, Condition::Exactly);
        let values = expected.map(|expected| HashMap::from([(":expected".to_owned(), expected.clone())]));
        let call = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key.clone()))
            .condition_expression(condition.expression())
            .expression_attribute_names("#tw", STAMP)
            .set_expression_attribute_values(values);
        answer(call.send().await, |_| None).map(Answer::outcome)
    }

    async fn push(&self, write: &Write) -> Result<Outcome, Fault> {
        let answer = self.write(write, Condition::NoneOrLower).await?;
        // What looks like a stamp at first sight but is none may sort above every version.
        if let Answer::Outrun(Some(stored)) = &answer
            && let Some(garbage) = Stamp::garbage(stored)
        {
            return self.write(write, Condition::Exactly(garbage)).await.map(Answer::outcome);
        }
        Ok(answer.outcome())
    }

    async fn write(&self, write: &Write, condition: Condition<'_>) -> Result<Answer, Fault> {
        let nonce = Nonce(self.nonces.lock().unwrap_or_else(PoisonError::into_inner).u64(..));
        let stamp = AttributeValue::S(write.stamp(nonce).to_string());
        let mut values = condition.values(&write.version);
        match &write.body {
            Body::Put(item, _) => {
                let mut item = Item::clone(item);
                item.insert(STAMP.to_owned(), stamp);
                let mut call = self.client.put_item().table_name(&self.table);
                if let Some(key) = write.key.keys().next().filter(|_| condition.has_key()) {
                    call = call.expression_attribute_names("#key", key);
                }
                let call = call
                    .set_item(Some(item))
                    .condition_expression(condition.expression())
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
                    .condition_expression(condition.expression())
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
