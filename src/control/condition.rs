//! Writes to the control table that hold only under a condition.

use aws_sdk_dynamodb::error::ProvideErrorMetadata;

use super::{ControlTable, PK, Row};
use crate::fault::Fault;

/// The result of a write that only a lease's owner may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Yes,
    /// Another agent has the lease.
    No,
}

pub(super) const CONDITION_FAILED: &str = "ConditionalCheckFailedException";

pub(super) fn held<T, E>(result: Result<T, aws_sdk_dynamodb::error::SdkError<E>>) -> Result<Held, Fault>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match result {
        Ok(_) => Ok(Held::Yes),
        Err(error) if error.code() == Some(CONDITION_FAILED) => Ok(Held::No),
        Err(error) => Err(error.into()),
    }
}

impl ControlTable {
    /// Puts a row, unless it exists.
    pub(super) async fn put_new(&self, row: Row) -> Result<(), Fault> {
        let put = self.client.put_item().table_name(&self.name).set_item(Some(row));
        let put = put.condition_expression("attribute_not_exists(#pk)").expression_attribute_names("#pk", PK);
        held(put.send().await).map(|_| ())
    }
}
