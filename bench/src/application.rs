//! What an application writes.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, ConsumedCapacity, ReturnConsumedCapacity};
use tokio::time::Instant;
use tradewind::protocol::Item;

use crate::Result;

/// The partition key, a string.
pub(crate) const KEY: &str = "id";
/// When the write was to be sent, in microseconds on this process's clock.
pub(crate) const SENT: &str = "sent";
/// Makes every write change something.
const SERIAL: &str = "serial";
const TEXT: &str = "text";
/// The size of an item beside its text, in bytes.
const OVERHEAD: usize = 60;

/// When the clock of [`SENT`] starts.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
static WRITES: AtomicU64 = AtomicU64::new(0);

/// A moment, on the clock that items carry.
pub(crate) fn on_clock(moment: Instant) -> Duration {
    moment.saturating_duration_since(*BEGIN)
}

/// The moment that an item carries.
pub(crate) fn at(on_clock: Duration) -> Instant {
    *BEGIN + on_clock
}

/// When an item was to be sent.
pub(crate) fn sent_at(item: &Item) -> Option<Instant> {
    let micros = item.get(SENT)?.as_n().ok()?.parse().ok()?;
    Some(at(Duration::from_micros(micros)))
}

/// An application, whose items have one size.
#[derive(Clone, Debug)]
pub(crate) struct Application {
    pub(crate) client: Client,
    pub(crate) table: String,
    pub(crate) bytes: usize,
}

impl Application {
    /// A new item, with the moment at which it is sent.
    pub(crate) fn item(&self, key: &str, sent: Instant) -> Item {
        let mut item = marks(sent);
        item.insert(KEY.to_owned(), text(key));
        item.insert(TEXT.to_owned(), text(&"x".repeat(self.bytes.saturating_sub(OVERHEAD))));
        item
    }

    /// Puts an item. Returns the write units consumed.
    pub(crate) async fn put(&self, key: &str, sent: Instant) -> Result<f64> {
        let put = self.client.put_item().table_name(&self.table).set_item(Some(self.item(key, sent)));
        let answer = put.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await?;
        Ok(units(answer.consumed_capacity))
    }

    /// Updates an item, including its stamp.
    pub(crate) async fn update(&self, key: &str) -> Result<f64> {
        let mut update = self.client.update_item().table_name(&self.table).key(KEY, text(key));
        for (name, value) in marks(Instant::now()) {
            update = update.expression_attribute_names(format!("#{name}"), &name);
            update = update.expression_attribute_values(format!(":{name}"), value);
        }
        let update = update.update_expression("SET #sent = :sent, #serial = :serial");
        let answer = update.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await?;
        Ok(units(answer.consumed_capacity))
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<f64> {
        let delete = self.client.delete_item().table_name(&self.table).key(KEY, text(key));
        let answer = delete.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await?;
        Ok(units(answer.consumed_capacity))
    }
}

fn units(capacity: Option<ConsumedCapacity>) -> f64 {
    capacity.and_then(|capacity| capacity.capacity_units).unwrap_or_default()
}

/// The attributes that differ from write to write.
fn marks(sent: Instant) -> Item {
    let serial = WRITES.fetch_add(1, Ordering::Relaxed);
    Item::from([
        (SENT.to_owned(), AttributeValue::N(on_clock(sent).as_micros().to_string())),
        (SERIAL.to_owned(), AttributeValue::N(serial.to_string())),
    ])
}

pub(crate) fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}
