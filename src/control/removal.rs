//! Removes the rows of a region that no longer takes part.

use aws_sdk_dynamodb::types::AttributeValue;

use super::condition::held;
use super::lease;
use super::report::REPORTS;
use super::{AGENTS, ControlTable, Gap, PK, Row, SK, read_text, space, table_stream, text};
use crate::destination::Destination;
use crate::fault::Fault;
use crate::protocol::Origin;

impl ControlTable {
    /// Whether any row here treats another region as taking part: its watermarks, or checkpoints for it.
    pub async fn knows(&self, other: &Origin, tables: &[String], spaces: &[String]) -> Result<bool, Fault> {
        for table in tables {
            if self.watermarks(table).await?.arrived.iter().any(|(origin, _)| origin == other) {
                return Ok(true);
            }
        }
        let other_replica = Destination::replica(other, &self.region);
        for space in spaces {
            let leases = self.leases(space).await?.leases;
            if leases.values().any(|lease| lease.checkpoints.contains_key(&other_replica)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes all rows here about another region that no longer takes part, for these tables and lease
    /// spaces. Returns how many. Dead letters stay: they hold items.
    pub async fn forget_region(
        &self,
        gone: &Origin,
        tables: &[String],
        spaces: &[String],
    ) -> Result<usize, Fault> {
        let mut removed = 0;
        let watermarks = tables.iter().map(|table| (format!("watermark/{table}"), gone.to_string()));
        let mut rows: Vec<(String, String)> = watermarks.collect();
        rows.push((AGENTS.to_owned(), super::pause::sk(&Destination::Peer(gone.clone()))));
        for row in self.rows(REPORTS).await? {
            let of_gone = |sk: &&str| sk.split_once(' ').is_some_and(|(region, _)| region == gone.as_str());
            rows.extend(read_text(&row, SK).filter(of_gone).map(|sk| (REPORTS.to_owned(), sk.to_owned())));
        }
        for (pk, sk) in rows {
            removed += usize::from(self.remove(&pk, &sk).await?);
        }
        for table in tables {
            for gap in self.agreement(table).await?.gaps.into_iter().filter(|gap| gap.peers.contains(gone)) {
                let peers: Vec<_> = gap.peers.iter().filter(|peer| *peer != gone).cloned().collect();
                if peers.is_empty() {
                    self.close_gap(table, &gap).await?;
                } else {
                    self.save_gap(table, &Gap { peers, ..gap }).await?;
                }
                removed += 1;
            }
        }
        for space in spaces {
            let attribute = lease::attribute(gone.as_str());
            for row in self.rows(&space::pk(space)).await? {
                let Some(shard) = read_text(&row, SK).filter(|_| row.contains_key(&attribute)) else {
                    continue;
                };
                let update = self.client.update_item().table_name(&self.name);
                let update = update.key(PK, text(space::pk(space))).key(SK, text(shard));
                let update = update
                    .update_expression("REMOVE #gone")
                    // Its agent may have removed the row meanwhile.
                    .condition_expression("attribute_exists(#gone)")
                    .expression_attribute_names("#gone", &attribute);
                held(update.send().await)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes this region's own rows, for these tables and lease spaces. Returns how many. Marks and dead
    /// letters stay.
    pub async fn deregister_region(&self, tables: &[String], spaces: &[String]) -> Result<usize, Fault> {
        let mut removed = 0;
        let watermarks = tables.iter().map(|table| format!("watermark/{table}"));
        let leases = spaces.iter().map(|space| space::pk(space));
        let streams = tables.iter().map(|table| table_stream::pk(table));
        for pk in watermarks.chain(leases).chain(streams).chain([AGENTS.to_owned(), REPORTS.to_owned()]) {
            for row in self.rows(&pk).await? {
                let Some(sk) = read_text(&row, SK) else { continue };
                removed += usize::from(self.remove(&pk, sk).await?);
            }
        }
        Ok(removed)
    }

    /// Removes a row. Returns whether it was there.
    async fn remove(&self, pk: &str, sk: &str) -> Result<bool, Fault> {
        let delete = self.client.delete_item().table_name(&self.name);
        let delete = delete.key(PK, text(pk)).key(SK, text(sk));
        let old = delete.return_values(aws_sdk_dynamodb::types::ReturnValue::AllOld).send().await?;
        Ok(old.attributes.is_some_and(|row: Row| row.values().any(AttributeValue::is_s)))
    }
}
