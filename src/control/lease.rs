//! Leases: which agent reads a shard, and how far each destination has got in it.
//!
//! There is one row for each shard of a table's stream, with the Kinesis Client Library's field names:
//! `leaseKey`, `leaseOwner`, `leaseCounter`, `parentShardId`, `checkpoint`. Unlike there, an owner does not
//! renew each lease by a separate write: an agent's beat renews all of its leases (see `beat`), and the
//! counter increases when the owner changes. It fences: what an owner saves is refused once another has taken
//! the lease.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use super::condition::{CONDITION_FAILED, Held, held};
use super::hold::HoldRow;
use super::jump::{self, Jump};
use super::space::{BARRIER, pk};
use super::{AgentId, ControlTable, PK, Row, SK, number, read_number, read_text, text};
use crate::destination::Destination;
use crate::fault::Fault;
use crate::protocol::{Floors, Hlc, Origin, is_credible};
use crate::source::{Position, ShardId};

/// The leases of one stream.
pub type Leases = BTreeMap<ShardId, Lease>;

/// One shard's row.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    pub shard: ShardId,
    /// The parent shard.
    pub parent: Option<ShardId>,
    pub owner: Option<AgentId>,
    /// Increases with each change of owner.
    pub counter: u64,
    /// Records created before this time, in milliseconds, are remembered and not replicated.
    pub since_millis: u64,
    /// When the lease was created, by the stream's clock, in milliseconds since the Unix epoch; 0 if unknown.
    pub made_millis: u64,
    /// Where the service's clock was ahead, in order.
    pub jumps: Vec<Jump>,
    pub checkpoints: BTreeMap<Destination, Checkpoint>,
}

/// One destination's progress in one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Everything up to here is done for the destination.
    pub done: Position,
    /// From where this shard and its ancestors must be read again to rebuild the same key memory; an ancestor
    /// that is not named is not needed.
    pub rewind: BTreeMap<ShardId, Position>,
    /// The floors in force at `rewind`.
    pub floors: Floors,
    /// Those in force later, as far as records that are read again depend on them.
    pub terms: Vec<Term>,
    /// No write that is not done yet has a creation time below this, in milliseconds.
    pub millis: u64,
    /// Everything written before this barrier was raised is done.
    pub barrier: u64,
}

/// The floors by which records were judged from a position in the stream on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub shard: ShardId,
    pub after: Position,
    pub floors: Floors,
}

impl Checkpoint {
    /// Whether it was saved before anything of the shard was known.
    pub fn is_blank(&self) -> bool {
        self.done == Position::TrimHorizon && self.millis == 0
    }
}

/// A table's rows.
#[derive(Clone, Debug, Default)]
pub struct LeaseTable {
    pub leases: Leases,
    /// The last barrier raised. Whoever waits raises one, and the owners of the leases report when everything
    /// before it is done.
    pub barrier: u64,
    /// A seeder's hold on the table; it is in the barrier's row, so that whoever has seen a barrier has seen
    /// the hold raised before it.
    pub hold: HoldRow,
}

impl Lease {
    /// Takes back times so far ahead that nobody whose clock says `now` believes them.
    pub fn disbelieve(&mut self, now: u64) {
        for checkpoint in self.checkpoints.values_mut() {
            let terms = checkpoint.terms.iter_mut().map(|term| &mut term.floors);
            for floors in terms.chain([&mut checkpoint.floors]) {
                *floors = floors.credible(now);
            }
            if !is_credible(checkpoint.millis, now) {
                checkpoint.millis = 0;
            }
        }
    }

    /// Whether everything in the shard is done for a destination.
    pub fn is_done_for(&self, destination: &Destination) -> bool {
        self.checkpoints.get(destination).is_some_and(|checkpoint| checkpoint.done == Position::End)
    }

    /// Whether everything written to the shard before a barrier is done for a destination.
    pub fn has_passed(&self, barrier: u64, destination: &Destination) -> bool {
        let passed = |checkpoint: &Checkpoint| checkpoint.barrier >= barrier;
        self.is_done_for(destination) || self.checkpoints.get(destination).is_some_and(passed)
    }
}

/// Precedes the label of a destination in its attribute's name.
const DESTINATION: &str = "to ";
const OWNER: &str = "leaseOwner";
const COUNTER: &str = "leaseCounter";
const PARENT: &str = "parentShardId";
const REVISION: &str = "revision";
/// The sort key of the row that says where a stream starts.
const START: &str = "start";

impl ControlTable {
    /// The leases of a table, and its barrier.
    pub async fn leases(&self, space: &str) -> Result<LeaseTable, Fault> {
        let rows = self.rows(&pk(space)).await?;
        let barrier = rows.iter().find(|row| read_text(row, SK) == Some(BARRIER));
        Ok(LeaseTable {
            leases: rows
                .iter()
                .filter_map(|row| read(row, &self.region))
                .map(|lease| (lease.shard.clone(), lease))
                .collect(),
            barrier: barrier.and_then(|row| read_number(row, "raised")).unwrap_or_default(),
            hold: barrier.map(HoldRow::read).unwrap_or_default(),
        })
    }

    /// From when on records are replicated, in milliseconds: the value set by whoever came first.
    pub async fn start_since(&self, space: &str, millis: u64) -> Result<u64, Fault> {
        let update = self.client.update_item().table_name(&self.name);
        let update = update.key(PK, text(pk(space))).key(SK, text(START));
        let settled = update
            .update_expression("SET sinceMillis = if_not_exists(sinceMillis, :millis)")
            .expression_attribute_values(":millis", number(millis))
            .return_values(ReturnValue::AllNew)
            .send()
            .await?;
        let since = settled.attributes.as_ref().and_then(|row| read_number(row, "sinceMillis"));
        Ok(since.unwrap_or(millis))
    }

    /// Raises the next barrier. Returns its number.
    pub async fn raise_barrier(&self, space: &str) -> Result<u64, Fault> {
        let raised = self
            .barrier_row(space)
            .update_expression("ADD raised :one")
            .expression_attribute_values(":one", number(1))
            .return_values(ReturnValue::AllNew)
            .send()
            .await?;
        Ok(raised.attributes.as_ref().and_then(|row| read_number(row, "raised")).unwrap_or_default())
    }

    /// Creates a lease without an owner, unless it exists.
    pub async fn create_lease(
        &self,
        space: &str,
        shard: &ShardId,
        parent: Option<&ShardId>,
        since_millis: u64,
        made_millis: u64,
    ) -> Result<(), Fault> {
        let mut row = Row::from([
            (PK.to_owned(), text(pk(space))),
            (SK.to_owned(), text(&*shard.0)),
            ("leaseKey".to_owned(), text(&*shard.0)),
            (COUNTER.to_owned(), number(0)),
            ("checkpoint".to_owned(), text(Position::TrimHorizon.to_string())),
            ("sinceMillis".to_owned(), number(since_millis)),
            ("madeMillis".to_owned(), number(made_millis)),
        ]);
        if let Some(parent) = parent {
            row.insert(PARENT.to_owned(), text(&*parent.0));
        }
        self.put_new(row).await
    }

    /// Takes a lease if it is still as it was read. Returns it as it is now.
    pub async fn take_lease(
        &self,
        space: &str,
        lease: &Lease,
        agent: &AgentId,
    ) -> Result<Option<Lease>, Fault> {
        let update = self
            .lease_row(space, &lease.shard)
            .update_expression(format!(
                "SET {OWNER} = :owner, {COUNTER} = {COUNTER} + :one, {REVISION} = :zero"
            ))
            .condition_expression(format!("{COUNTER} = :counter"))
            .expression_attribute_values(":owner", text(agent.as_str()))
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":counter", number(lease.counter))
            .return_values(ReturnValue::AllNew);
        match update.send().await {
            Ok(answer) => Ok(answer.attributes.as_ref().and_then(|row| read(row, &self.region))),
            Err(error) if error.code() == Some(CONDITION_FAILED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Releases a lease, so that others may take it at once.
    pub async fn release_lease(&self, space: &str, lease: &Lease) -> Result<Held, Fault> {
        let update = self
            .lease_row(space, &lease.shard)
            .update_expression(format!("SET {COUNTER} = {COUNTER} + :one REMOVE {OWNER}"))
            .condition_expression(format!("{COUNTER} = :counter"))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":counter", number(lease.counter));
        held(update.send().await)
    }

    /// Saves what has changed, in one write, if the lease is still held. `revision` increases with each save
    /// of an owner, so that a late one undoes nothing.
    pub async fn save_checkpoints(
        &self,
        space: &str,
        lease: &Lease,
        revision: u64,
        changed: &[(Destination, Checkpoint)],
    ) -> Result<Held, Fault> {
        let mut update = self
            .lease_row(space, &lease.shard)
            .condition_expression(format!("{COUNTER} = :counter AND {REVISION} <= :revision"))
            .expression_attribute_values(":counter", number(lease.counter))
            .expression_attribute_values(":revision", number(revision));
        let mut sets = vec![format!("{REVISION} = :revision")];
        for (i, (destination, checkpoint)) in changed.iter().enumerate() {
            sets.push(format!("#d{i} = :d{i}"));
            update = update
                .expression_attribute_names(format!("#d{i}"), attribute(&destination.label(&self.region)))
                .expression_attribute_values(format!(":d{i}"), write(checkpoint));
        }
        // As in the Kinesis Client Library: how far the shard has been read.
        if let Some((_, read)) = changed.iter().find(|(destination, _)| *destination == Destination::Home) {
            sets.push("checkpoint = :checkpoint".to_owned());
            update = update.expression_attribute_values(":checkpoint", text(read.done.to_string()));
        }
        held(update.update_expression(format!("SET {}", sets.join(", "))).send().await)
    }

    /// Saves the jumps of a shard, if its lease is still held.
    pub async fn save_jumps(&self, space: &str, lease: &Lease, jumps: &[Jump]) -> Result<Held, Fault> {
        let update = self
            .lease_row(space, &lease.shard)
            .update_expression(format!("SET {} = :jumps", jump::JUMPS))
            .condition_expression(format!("{COUNTER} = :counter"))
            .expression_attribute_values(":jumps", AttributeValue::L(jumps.iter().map(jump::write).collect()))
            .expression_attribute_values(":counter", number(lease.counter));
        held(update.send().await)
    }

    /// Removes the lease of a shard that no longer exists.
    pub async fn retire_lease(&self, space: &str, shard: &ShardId) -> Result<(), Fault> {
        let delete = self.client.delete_item().table_name(&self.name);
        delete.key(PK, text(pk(space))).key(SK, text(&*shard.0)).send().await?;
        Ok(())
    }
}

/// The attribute that holds the checkpoint of a destination.
pub(super) fn attribute(label: &str) -> String {
    format!("{DESTINATION}{label}")
}

fn write(checkpoint: &Checkpoint) -> AttributeValue {
    let terms = checkpoint.terms.iter().map(|Term { shard, after, floors }| {
        AttributeValue::M(HashMap::from([
            ("shard".to_owned(), text(&*shard.0)),
            ("after".to_owned(), text(after.to_string())),
            ("floors".to_owned(), write_floors(floors)),
        ]))
    });
    let rewind =
        checkpoint.rewind.iter().map(|(shard, position)| (shard.to_string(), text(position.to_string())));
    AttributeValue::M(HashMap::from([
        ("done".to_owned(), text(checkpoint.done.to_string())),
        ("rewind".to_owned(), AttributeValue::M(rewind.collect())),
        ("floors".to_owned(), write_floors(&checkpoint.floors)),
        ("terms".to_owned(), AttributeValue::L(terms.collect())),
        ("millis".to_owned(), number(checkpoint.millis)),
        ("barrier".to_owned(), number(checkpoint.barrier)),
    ]))
}

fn write_floors(floors: &Floors) -> AttributeValue {
    AttributeValue::M(
        floors.iter().map(|(origin, floor)| (origin.to_string(), number(u64::from(floor)))).collect(),
    )
}

/// Reads a row in the control table of the region `home`.
pub(super) fn read(row: &Row, home: &Origin) -> Option<Lease> {
    let checkpoints = row.iter().filter_map(|(name, value)| {
        let destination = Destination::labelled(name.strip_prefix(DESTINATION)?, home)?;
        Some((destination, read_checkpoint(value.as_m().ok()?)?))
    });
    Some(Lease {
        shard: ShardId(read_text(row, SK)?.into()),
        parent: read_text(row, PARENT).map(|parent| ShardId(parent.into())),
        owner: read_text(row, OWNER).map(AgentId::from),
        counter: read_number(row, COUNTER)?,
        since_millis: read_number(row, "sinceMillis").unwrap_or_default(),
        made_millis: read_number(row, "madeMillis").unwrap_or_default(),
        jumps: jump::read(row),
        checkpoints: checkpoints.collect(),
    })
}

fn read_floors(fields: &Row) -> Option<Floors> {
    let mut floors = Floors::default();
    for (origin, floor) in fields.get("floors")?.as_m().ok()? {
        floors.raise(&origin.parse().ok()?, Hlc::from(floor.as_n().ok()?.parse::<u64>().ok()?));
    }
    Some(floors)
}

fn read_term(value: &AttributeValue) -> Option<Term> {
    let fields = value.as_m().ok()?;
    let shard = ShardId(read_text(fields, "shard")?.into());
    Some(Term { shard, after: read_text(fields, "after")?.into(), floors: read_floors(fields)? })
}

fn read_checkpoint(fields: &Row) -> Option<Checkpoint> {
    // A row from before there were terms has none.
    let terms = fields.get("terms").and_then(|terms| terms.as_l().ok()).into_iter().flatten();
    let rewind = fields.get("rewind")?.as_m().ok()?.iter();
    let rewind =
        rewind.map(|(shard, at)| Some((ShardId(shard.as_str().into()), at.as_s().ok()?.as_str().into())));
    Some(Checkpoint {
        done: read_text(fields, "done")?.into(),
        rewind: rewind.collect::<Option<_>>()?,
        floors: read_floors(fields)?,
        terms: terms.map(read_term).collect::<Option<_>>()?,
        millis: read_number(fields, "millis")?,
        barrier: read_number(fields, "barrier").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    fn positions() -> impl Strategy<Value = Position> {
        prop_oneof![
            Just(Position::TrimHorizon),
            Just(Position::End),
            "[0-9]{1,40}".prop_map(|digits| Position::from(digits.as_str())),
        ]
    }

    fn checkpoints() -> impl Strategy<Value = Checkpoint> {
        let rewind = btree_map("shardId-[0-9]{1,20}", positions(), 0..3);
        let term = ("shardId-[0-9]{1,20}", positions(), floors()).prop_map(|(shard, after, floors)| Term {
            shard: ShardId(shard.as_str().into()),
            after,
            floors,
        });
        let terms = proptest::collection::vec(term, 0..3);
        (positions(), rewind, floors(), terms, any::<u64>(), any::<u64>()).prop_map(
            |(done, rewind, floors, terms, millis, barrier)| {
                let rewind =
                    rewind.into_iter().map(|(shard, at)| (ShardId(shard.as_str().into()), at)).collect();
                Checkpoint { done, rewind, floors, terms, millis, barrier }
            },
        )
    }

    fn floors() -> impl Strategy<Value = Floors> {
        btree_map("[a-z0-9_-]{1,32}", any::<u64>(), 0..4).prop_map(|raised| {
            let mut floors = Floors::default();
            for (origin, hlc) in raised {
                floors.raise(&origin.parse().expect("a name"), Hlc::from(hlc));
            }
            floors
        })
    }

    proptest! {
        #[test]
        fn every_lease_is_read_back(
            named in btree_map("(feed:)?[a-z0-9_-]{1,32}", checkpoints(), 0..4),
            owner in proptest::option::of("[a-f0-9]{16}"),
            parent in proptest::option::of("shardId-[0-9]{1,20}"),
            counter: u64, since_millis: u64, made_millis: u64,
        ) {
            let home: Origin = "home".parse().expect("a name");
            let checkpoints =
                named.into_iter().map(|(to, c)| (Destination::labelled(&to, &home).expect("a label"), c));
            let checkpoints = checkpoints.collect();
            let owner = owner.as_deref().map(AgentId::from);
            let shard = ShardId("shard".into());
            let parent = parent.map(|parent| ShardId(parent.as_str().into()));
            let jumps = Vec::new();
            let lease = Lease { shard, parent, owner, counter, since_millis, made_millis, jumps, checkpoints };
            let mut row = Row::from([
                (SK.to_owned(), text("shard")),
                (COUNTER.to_owned(), number(counter)),
                ("sinceMillis".to_owned(), number(since_millis)),
                ("madeMillis".to_owned(), number(made_millis)),
                (format!("{DESTINATION}Not a region"), text("garbage")),
            ]);
            row.extend(lease.parent.as_ref().map(|parent| (PARENT.to_owned(), text(&*parent.0))));
            row.extend(lease.owner.as_ref().map(|owner| (OWNER.to_owned(), text(owner.as_str()))));
            row.extend(lease.checkpoints.iter().map(|(to, c)| (attribute(&to.label(&home)), write(c))));
            prop_assert_eq!(read(&row, &home), Some(lease));
        }
    }
}
