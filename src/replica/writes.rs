//! The conditional writes that an agent makes to one replica.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};

use super::condition::Condition;
use super::{AttributeNames, Insistence};
use crate::fault::Fault;
use crate::protocol::{
    Action, Body, Guard, Item, Next, Nonce, Origin, STAMP, STAMP_MAGIC, Seed, Stamp, Write,
};
use crate::region::Region;

/// The start of the stamp attribute of an item that is to be replicated again. It sorts below every stamp, so
/// that it blocks no push.
const TOUCHED: &str = "tw- ";

/// The outcome of a conditional write.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Whether the condition named everything that the write replaced.
    Applied { guarded: bool },
    /// It is there already, or is no longer needed.
    Done,
    /// Something newer is stored.
    Superseded,
    /// The replica has this item, a write that its own agent has not reported yet; or no item where one was
    /// expected.
    Contended(Option<Item>),
}

/// One physical table to write to.
#[derive(Debug)]
pub struct Replica {
    region: Origin,
    client: Client,
    table: String,
    names: Arc<AttributeNames>,
    nonces: Mutex<fastrand::Rng>,
}

/// The result of one attempt.
enum Attempt {
    Applied {
        guarded: bool,
    },
    /// Something else was found, or nothing.
    Failed(Option<Item>),
}

impl Replica {
    pub fn new(region: &Region, table: String, names: Arc<AttributeNames>, seed: u64) -> Self {
        let (region, client) = (region.name.clone(), region.writes.clone());
        Self { region, client, table, names, nonces: Mutex::new(fastrand::Rng::with_seed(seed)) }
    }

    /// Performs an action, as far as what is stored allows.
    pub async fn attempt(&self, action: &Action, insistence: &Insistence) -> Result<Outcome, Fault> {
        let mut attempt = self.once(action, action.guard(&self.region)).await?;
        loop {
            let found = match attempt {
                Attempt::Applied { guarded } => return Ok(Outcome::Applied { guarded }),
                Attempt::Failed(found) => found,
            };
            let guard = match (action.next(&self.region, found.as_ref()), action) {
                (Next::Superseded, Action::Push(write)) => {
                    let stands = found.as_ref().and_then(Stamp::read);
                    let is_newer = stands.is_some_and(|stands| stands.version > write.version);
                    return Ok(if is_newer { Outcome::Superseded } else { Outcome::Done });
                }
                (Next::Superseded, _) => return Ok(Outcome::Done),
                (Next::Again, Action::Restamp(_)) => {
                    Guard::Stamp(found.as_ref().and_then(|found| found.get(STAMP)))
                }
                (Next::Again, _) => Guard::exactly(found.as_ref()),
                (Next::Contended, _) => return self.insist(action, found, insistence).await,
            };
            attempt = self.once(action, guard).await?;
        }
    }

    /// What to do about a contended push that has waited for long.
    async fn insist(
        &self,
        action: &Action,
        found: Option<Item>,
        insistence: &Insistence,
    ) -> Result<Outcome, Fault> {
        let guard = match (insistence, action) {
            // A value that no agent wrote may sort above every stamp, and would block for ever.
            (Insistence::OnAnything, Action::Push(write))
                if found.as_ref().is_none_or(|found| !found.contains_key(STAMP)) =>
            {
                Guard::Below(&write.version)
            }
            (Insistence::OnAnything, _) => Guard::exactly(found.as_ref()),
            (Insistence::On(standing), _) if *standing == found => Guard::exactly(found.as_ref()),
            (Insistence::None | Insistence::On(_), _) => return Ok(Outcome::Contended(found)),
        };
        Ok(match self.once(action, guard).await? {
            Attempt::Applied { .. } => Outcome::Applied { guarded: *insistence != Insistence::OnAnything },
            Attempt::Failed(found) => Outcome::Contended(found),
        })
    }

    async fn once(&self, action: &Action, guard: Guard<'_>) -> Result<Attempt, Fault> {
        let condition = Condition::of(&guard, action.key(), &self.names);
        match action {
            Action::Push(write) | Action::Heal(write, _) => match &write.body {
                Body::Put(item, _) => self.put(write, item, &guard, condition).await,
                Body::Delete => {
                    let mark = write.stamp(self.nonce(), &guard).to_string();
                    self.set_stamp(&write.key, mark, condition).await
                }
            },
            Action::Restamp(write) => {
                let stamp = write.stamp_at_home(self.nonce()).to_string();
                self.set_stamp(&write.key, stamp, condition).await
            }
            Action::ApplyDelete { key, .. } => self.delete(key, condition).await,
        }
    }

    /// Makes one attempt at a seed.
    pub async fn seed(&self, seed: &Seed) -> Result<Outcome, Fault> {
        let Body::Put(item, _) = &seed.write.body else { return Ok(Outcome::Done) };
        let guard = Guard::exactly(seed.write.replaced.as_deref());
        let condition = Condition::of(&guard, &seed.write.key, &self.names);
        // A retried call may find what its first attempt wrote.
        let stands = |stored: &Item| Stamp::read(stored).is_some_and(|at| at.version == seed.write.version);
        Ok(match self.put(&seed.write, item, &guard, condition).await? {
            Attempt::Applied { guarded } => Outcome::Applied { guarded },
            Attempt::Failed(Some(stored)) if stands(&stored) => Outcome::Applied { guarded: true },
            Attempt::Failed(_) => Outcome::Superseded,
        })
    }

    /// Whether the replica would accept a put. Nothing is written: a service checks a write before it
    /// evaluates its condition.
    pub async fn probe(&self, write: &Write) -> Result<(), Fault> {
        let Body::Put(item, _) = &write.body else { return Ok(()) };
        self.put(write, item, &Guard::Absent, Condition::never()).await.map(|_| ())
    }

    /// Makes an item replicate again, if exactly this is stored.
    ///
    /// The stamp becomes one that no agent writes, so the agent takes the change for an application's write.
    /// It is as long as the write's stamp, so that it is refused where the write would be.
    pub async fn touch(&self, write: &Write, expected: &Item) -> Result<bool, Fault> {
        let guard = Guard::Exactly(expected);
        let touched = write.stamp(self.nonce(), &guard).to_string().replacen(STAMP_MAGIC, TOUCHED, 1);
        let condition = Condition::of(&guard, &write.key, &self.names);
        self.set_stamp(&write.key, touched, condition).await.map(|attempt| attempt.is_applied())
    }

    /// Deletes an item as an application would, if exactly this is stored.
    pub async fn delete_exactly(&self, key: &Item, expected: &Item) -> Result<bool, Fault> {
        let condition = Condition::of(&Guard::Exactly(expected), key, &self.names);
        self.delete(key, condition).await.map(|attempt| attempt.is_applied())
    }

    fn nonce(&self) -> Nonce {
        let random = self.nonces.lock().unwrap_or_else(PoisonError::into_inner).u64(..);
        Nonce::new(&self.region, random)
    }

    async fn put(
        &self,
        write: &Write,
        item: &Item,
        guard: &Guard<'_>,
        condition: Condition,
    ) -> Result<Attempt, Fault> {
        let mut item = Item::clone(item);
        item.insert(STAMP.to_owned(), AttributeValue::S(write.stamp(self.nonce(), guard).to_string()));
        let call = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression(condition.expression)
            .set_expression_attribute_names(some(condition.names))
            .set_expression_attribute_values(some(condition.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        attempt(call.send().await, condition.is_whole, |error| match error {
            PutItemError::ConditionalCheckFailedException(failed) => failed.item,
            _ => None,
        })
    }

    /// Sets a stamp beside what is stored: a mark, or a stamp in place.
    async fn set_stamp(&self, key: &Item, stamp: String, condition: Condition) -> Result<Attempt, Fault> {
        let Condition { expression, mut names, mut values, is_whole } = condition;
        names.insert("#tw".to_owned(), STAMP.to_owned());
        values.insert(":stamp".to_owned(), AttributeValue::S(stamp));
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key.clone()))
            .update_expression("SET #tw = :stamp")
            .condition_expression(expression)
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        attempt(call.send().await, is_whole, |error| match error {
            UpdateItemError::ConditionalCheckFailedException(failed) => failed.item,
            _ => None,
        })
    }

    async fn delete(&self, key: &Item, condition: Condition) -> Result<Attempt, Fault> {
        let call = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key.clone()))
            .condition_expression(condition.expression)
            .set_expression_attribute_names(some(condition.names))
            .set_expression_attribute_values(some(condition.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        attempt(call.send().await, condition.is_whole, |error| match error {
            DeleteItemError::ConditionalCheckFailedException(failed) => failed.item,
            _ => None,
        })
    }
}

impl Attempt {
    fn is_applied(&self) -> bool {
        matches!(self, Self::Applied { .. })
    }
}

/// DynamoDB accepts no empty map.
fn some<T>(map: HashMap<String, T>) -> Option<HashMap<String, T>> {
    (!map.is_empty()).then_some(map)
}

fn attempt<T, E>(
    result: Result<T, SdkError<E>>,
    guarded: bool,
    found: fn(E) -> Option<Item>,
) -> Result<Attempt, Fault>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match result {
        Ok(_) => Ok(Attempt::Applied { guarded }),
        Err(SdkError::ServiceError(error))
            if error.err().code() == Some("ConditionalCheckFailedException") =>
        {
            Ok(Attempt::Failed(found(error.into_err())))
        }
        Err(error) => Err(error.into()),
    }
}
