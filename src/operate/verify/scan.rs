//! Scans all replicas of a table side by side.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::matcher::Sighting;
use super::pile::Trace;
use crate::contained::joined;
use crate::operate::OperateError;
use crate::operate::scanned::ScannedReplica;
use crate::protocol::{Item, KeyId};

/// How many items a replica may be ahead of the others within a segment. Replicas that stay close
/// leave few keys that only some have shown.
const AHEAD: u64 = 1000;

/// How far a segment has been read in one replica.
struct Cursor {
    read: u64,
    start: Option<Item>,
    done: bool,
}

/// Scans one segment of all replicas, in step.
pub(super) async fn scan_segment(
    replicas: Arc<[ScannedReplica]>,
    segment: u16,
    segments: u16,
    pages: mpsc::Sender<Vec<Sighting>>,
) -> Result<(), OperateError> {
    let mut cursors: Vec<Cursor> =
        replicas.iter().map(|_| Cursor { read: 0, start: None, done: false }).collect();
    while let Some(least) = cursors.iter().filter(|cursor| !cursor.done).map(|cursor| cursor.read).min() {
        let mut reads = JoinSet::new();
        for (i, cursor) in cursors.iter_mut().enumerate() {
            if !cursor.done && cursor.read <= least + AHEAD {
                let (replicas, start) = (replicas.clone(), cursor.start.take());
                reads.spawn(async move {
                    let replica = &replicas[i];
                    let (items, next) = replica
                        .read(segment, segments, start, None)
                        .await
                        .map_err(|fault| replica.at(fault))?;
                    let seen: Vec<_> = items.iter().map(|item| sighting(replica, i, item)).collect();
                    Ok::<_, OperateError>((i, seen, next))
                });
            }
        }
        while let Some(read) = reads.join_next().await {
            // A page that was not read must not count as read.
            let read = joined(read);
            let (i, seen, next) = read?;
            let cursor = &mut cursors[i];
            cursor.read += seen.len() as u64;
            cursor.done = next.is_none();
            cursor.start = next;
            if pages.send(seen).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn sighting(of: &ScannedReplica, replica: usize, item: &Item) -> Sighting {
    let values = of.keys.names().filter_map(|name| item.get(name).cloned()).collect();
    let trace = if of.config.selections.is_whole(item) { Trace::of(Some(item)) } else { Trace::Part };
    Sighting { replica, id: KeyId::of(&of.key_of(item)), key: values, trace }
}
