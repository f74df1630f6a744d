//! An application that makes real conflicts: writes of every kind, to few keys, in every region. It also
//! counts in an item that nobody else writes, and notices if the count goes back.

use std::collections::VecDeque;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use serde::Serialize;

use crate::fault::Fault;
use crate::protocol::Item;

/// A kind of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// PutItem of a new item, which drops a stamp.
    Put,
    /// UpdateItem, which keeps a stamp.
    Update,
    /// PutItem of an old copy as it was read, including its stamp.
    PutBack,
    Delete,
    /// Increments its own item, by ADD.
    Count,
    /// The same with an optimistic lock: on condition of the last count it was given.
    Swap,
}

/// An application in one region, which writes to one table.
#[derive(Debug)]
pub struct Application {
    client: Client,
    table: String,
    name: String,
    keys: u64,
    rng: fastrand::Rng,
    written: u64,
    /// Items as they were read some time ago.
    copies: VecDeque<Item>,
    /// The item that it counts in, and the last count it was given.
    counter: AttributeValue,
    count: u64,
    rollbacks: u64,
}

impl Application {
    /// The partition key, a string, of the tables that it writes to.
    pub const KEY: &str = "id";
    /// How many old copies it holds.
    const COPIES: usize = 4;

    /// An application that writes to `keys` different keys, driven by `seed`.
    pub fn new(client: Client, table: String, name: String, keys: u64, seed: u64) -> Self {
        Self {
            counter: AttributeValue::S(format!("counter-{name}-{seed:016x}")),
            client,
            table,
            name,
            keys: keys.max(1),
            rng: fastrand::Rng::with_seed(seed),
            written: 0,
            copies: VecDeque::new(),
            count: 0,
            rollbacks: 0,
        }
    }

    /// How often its own count was less than, or no more than, what it had been given before.
    pub fn rollbacks(&self) -> u64 {
        self.rollbacks
    }

    /// Makes one write.
    pub async fn write(&mut self) -> Result<Operation, Fault> {
        self.written += 1;
        let id = AttributeValue::S(format!("item-{:05}", self.rng.u64(0..self.keys)));
        match self.rng.u8(0..100) {
            0..36 => self.put(id).await,
            36..66 => self.update(id).await,
            66..74 => self.put_back(id).await,
            74..86 => self.delete(id).await,
            86..94 => self.count().await,
            _ => self.swap().await,
        }
    }

    async fn put(&mut self, id: AttributeValue) -> Result<Operation, Fault> {
        let item = Item::from([
            (Self::KEY.to_owned(), id),
            ("by".to_owned(), AttributeValue::S(self.name.clone())),
            ("serial".to_owned(), AttributeValue::N(self.written.to_string())),
            (
                "price".to_owned(),
                AttributeValue::N(format!("{}.{:02}", self.rng.u16(..), self.rng.u8(0..100))),
            ),
            ("tags".to_owned(), AttributeValue::Ss(vec!["new".to_owned(), self.name.clone()])),
            ("text".to_owned(), AttributeValue::S("x".repeat(self.rng.usize(0..400)))),
        ]);
        self.client.put_item().table_name(&self.table).set_item(Some(item)).send().await?;
        Ok(Operation::Put)
    }

    async fn update(&mut self, id: AttributeValue) -> Result<Operation, Fault> {
        let update = self.client.update_item().table_name(&self.table).key(Self::KEY, id);
        update
            .update_expression("SET #by = :by, #serial = :serial ADD #updates :one")
            .expression_attribute_names("#by", "by")
            .expression_attribute_names("#serial", "serial")
            .expression_attribute_names("#updates", "updates")
            .expression_attribute_values(":by", AttributeValue::S(self.name.clone()))
            .expression_attribute_values(":serial", AttributeValue::N(self.written.to_string()))
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .send()
            .await?;
        Ok(Operation::Update)
    }

    /// Writes back a copy that was read earlier, and reads one for later.
    async fn put_back(&mut self, id: AttributeValue) -> Result<Operation, Fault> {
        let read = self.client.get_item().table_name(&self.table).key(Self::KEY, id.clone()).send().await?;
        let fresh = read.item.filter(|item| !item.is_empty());
        self.copies.extend(fresh);
        if self.copies.len() < Self::COPIES {
            return self.put(id).await;
        }
        let Some(copy) = self.copies.pop_front() else { return self.put(id).await };
        self.client.put_item().table_name(&self.table).set_item(Some(copy)).send().await?;
        Ok(Operation::PutBack)
    }

    async fn count(&mut self) -> Result<Operation, Fault> {
        let update = self.client.update_item().table_name(&self.table).key(Self::KEY, self.counter.clone());
        let update = update
            .update_expression("ADD #count :one")
            .expression_attribute_names("#count", "count")
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .return_values(ReturnValue::UpdatedNew);
        let count = update.send().await?.attributes.as_ref().and_then(count_of).unwrap_or_default();
        // A call whose answer is lost is retried, and counts twice.
        self.rollbacks += u64::from(count <= self.count);
        self.count = count;
        Ok(Operation::Count)
    }

    async fn swap(&mut self) -> Result<Operation, Fault> {
        let number = |number: u64| AttributeValue::N(number.to_string());
        let next = self.count + 1;
        let update = self.client.update_item().table_name(&self.table).key(Self::KEY, self.counter.clone());
        let mut update = update
            .update_expression("SET #count = :next")
            .condition_expression("attribute_not_exists(#count)")
            .expression_attribute_names("#count", "count")
            .expression_attribute_values(":next", number(next))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if self.count > 0 {
            update = update
                .condition_expression("#count = :count")
                .expression_attribute_values(":count", number(self.count));
        }
        let found = match update.send().await {
            Ok(_) => next,
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    failed.item.as_ref().and_then(count_of).unwrap_or_default()
                }
                _ => return Err(error.into()),
            },
        };
        // A call whose answer is lost is retried, and finds what it left.
        self.rollbacks += u64::from(found < next);
        self.count = found;
        Ok(Operation::Swap)
    }

    async fn delete(&mut self, id: AttributeValue) -> Result<Operation, Fault> {
        self.client.delete_item().table_name(&self.table).key(Self::KEY, id).send().await?;
        Ok(Operation::Delete)
    }
}

fn count_of(item: &Item) -> Option<u64> {
    item.get("count")?.as_n().ok()?.parse().ok()
}
