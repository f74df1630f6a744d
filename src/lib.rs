//! Tradewind: global tables for any DynamoDB-compatible store, run by their own user.

pub mod protocol;
