//! What feeds have missed, and what their sinks have rejected.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::OperateError;
use super::replicas::client;
use crate::clock::wall_millis;
use crate::config::{Config, FeedConfig};
use crate::control::{ControlTable, Gap, ParkedEvent, RowId, SavedEvent};
use crate::fault::Fault;
use crate::feed::WindowCall;
use crate::item_json::item_json;
use crate::protocol::Origin;
use crate::region::Region;
use crate::schema::describe;
use crate::sink::{Batch, Delivery, Offer, Sink};

/// Writes that a feed may have missed, by the mark in one region.
#[derive(Clone, Debug)]
pub struct FeedMark {
    pub region: Origin,
    pub gap: Gap,
}

/// An event that a feed's sink rejects, as told in one region.
#[derive(Clone, Debug, Serialize)]
pub struct Parked {
    pub id: RowId,
    pub region: Origin,
    pub table: String,
    /// The key, as DynamoDB JSON.
    pub key: Value,
    pub version: String,
    /// The time in its version, in milliseconds since the Unix epoch.
    pub written_millis: u64,
    pub rejections: u32,
    pub reason: String,
    #[serde(skip)]
    saved: SavedEvent,
}

/// What has become of an event that was offered to a sink again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "fate")]
pub enum Offered {
    /// The sink has it, and it is parked no more.
    Taken,
    /// The feed's `transform` yields nothing for it, and it is parked no more.
    LeftOut,
    /// It stays parked.
    Rejected { reason: String },
    /// Nothing is known about it: it stays parked.
    Unavailable { reason: String },
}

/// A feed, and the regions that deliver it.
#[derive(Clone, Copy, Debug)]
pub struct FeedSites<'a> {
    pub feed: &'a FeedConfig,
    pub regions: &'a BTreeMap<Origin, Region>,
}

impl FeedSites<'_> {
    fn each(&self) -> impl Iterator<Item = Result<(&Region, ControlTable), OperateError>> {
        self.feed.regions.iter().map(|name| self.at(name))
    }

    /// The marks that name the feed.
    pub async fn marks(&self) -> Result<Vec<FeedMark>, OperateError> {
        let mut marks = Vec::new();
        for site in self.each() {
            let (region, control) = site?;
            let agreement = control.agreement(&self.feed.table).await;
            let gaps = agreement.map_err(|fault| at_control(region, fault))?.gaps;
            let of_feed = gaps.into_iter().filter(|gap| gap.feeds.contains(&self.feed.name));
            marks.extend(of_feed.map(|gap| FeedMark { region: region.name.clone(), gap }));
        }
        Ok(marks)
    }

    /// Takes the feed off all marks. Returns those.
    pub async fn acknowledge(&self) -> Result<Vec<FeedMark>, OperateError> {
        let marks = self.marks().await?;
        for FeedMark { region, gap } in &marks {
            let (region, control) = self.at(region)?;
            let taken_off = control.acknowledge_gap(&self.feed.table, gap, &self.feed.name).await;
            taken_off.map_err(|fault| at_control(region, fault))?;
        }
        Ok(marks)
    }

    /// Makes the agents tell the feed once more, from a moment on, in milliseconds since the Unix epoch.
    pub async fn rewind(&self, since_millis: u64) -> Result<(), OperateError> {
        for site in self.each() {
            let (region, control) = site?;
            let rewound = control.rewind_feed(&self.feed.name, since_millis).await;
            rewound.map_err(|fault| at_control(region, fault))?;
        }
        Ok(())
    }

    /// The parked events, region by region, oldest version first.
    pub async fn parked(&self) -> Result<Vec<Parked>, OperateError> {
        let mut all = Vec::new();
        for site in self.each() {
            let (region, control) = site?;
            let found = control.parked_events(&self.feed.name).await;
            let found = found.map_err(|fault| at_control(region, fault))?;
            all.extend(found.into_iter().map(|saved| Parked::of(saved, region)));
        }
        Ok(all)
    }

    /// A parked event as it was told; `None` if part of it has expired.
    pub async fn event(&self, parked: &Parked) -> Result<Option<String>, OperateError> {
        let (region, control) = self.at(&parked.region)?;
        control.parked_text(&parked.saved).await.map_err(|fault| at_control(region, fault))
    }

    /// Removes a parked event.
    pub async fn drop(&self, parked: &Parked) -> Result<(), OperateError> {
        let (region, control) = self.at(&parked.region)?;
        control.delete_parked_event(&parked.saved).await.map_err(|fault| at_control(region, fault))
    }

    /// Offers a parked event to the sink once more, from here. Events of its key that were written later have been
    /// delivered before it.
    pub async fn replay(&self, parked: &Parked) -> Result<Offered, OperateError> {
        let Some(text) = self.event(parked).await? else {
            return Ok(Offered::Rejected { reason: "part of the event has expired".to_owned() });
        };
        let (region, _) = self.at(&parked.region)?;
        let offered = self.offer(region, &text).await;
        if matches!(offered, Offered::Taken | Offered::LeftOut) {
            self.drop(parked).await?;
        }
        Ok(offered)
    }

    /// Offers one made-up event to the sink of each region: the insert of an item that has a key only.
    pub async fn test(&self, config: &Config) -> Result<Vec<(Origin, Offered)>, OperateError> {
        let mut all = Vec::new();
        for site in self.each() {
            let (region, _) = site?;
            let named = config.tables.iter().find(|table| table.name == self.feed.table);
            let physical = named.and_then(|table| table.name_in(&region.name)).unwrap_or(&self.feed.table);
            let described = describe(region, physical).await;
            let described = described.map_err(|fault| OperateError::at(region, physical, fault))?;
            let key = json!(described.key_schema.sample());
            let mut event = json!({
                "eventID": format!("test-{}", wall_millis()),
                "eventName": "INSERT",
                "eventVersion": "1.1",
                "eventSource": "aws:dynamodb",
                "awsRegion": region.aws_region(),
                "dynamodb": {
                    "ApproximateCreationDateTime": wall_millis() / 1000,
                    "Keys": key,
                    "NewImage": key,
                    "SequenceNumber": "0",
                    "SizeBytes": 0,
                    "StreamViewType": self.feed.shape.view,
                },
                "eventSourceARN": described.table.latest_stream_arn,
            });
            if !self.feed.shape.strict {
                event["tradewind"] = json!({
                    "feed": self.feed.name,
                    "table": self.feed.table,
                    "region": region.name.as_str(),
                    "test": true,
                });
            }
            self.feed.shape.view.project(&mut event);
            all.push((region.name.clone(), self.offer(region, &event.to_string()).await));
        }
        Ok(all)
    }

    async fn offer(&self, region: &Region, text: &str) -> Offered {
        let event = serde_json::from_str::<Value>(text).unwrap_or_default();
        let text = match self.feed.shape.text(&event) {
            Ok(Some(text)) => text,
            Ok(None) => return Offered::LeftOut,
            Err(reason) => return Offered::Rejected { reason },
        };
        let sequence = event["dynamodb"]["SequenceNumber"].as_str().unwrap_or_default();
        let sink = Sink::open(&self.feed.sink, region);
        // Where there are windows, it is the first and last event of one of its own.
        let window = sink.limits().tumbling.map(|_| WindowCall {
            start_millis: wall_millis(),
            end_millis: wall_millis(),
            state: json!({}),
            is_final: true,
            is_early: false,
        });
        let events = vec![Offer { text: &text, sequence, created_millis: wall_millis() }];
        let batch = Batch { events, window: window.as_ref(), shard: "test", ..Batch::default() };
        match sink.deliver(&batch).await {
            Ok(Delivery::Taken { .. } | Delivery::Had { .. } | Delivery::HadWithMore) => Offered::Taken,
            Ok(Delivery::Rejected { reason, .. }) => Offered::Rejected { reason },
            Err(fault) => {
                let target = self.feed.sink.target_in(&region.name);
                Offered::Unavailable { reason: format!("{target} can't be called: {fault}") }
            }
        }
    }

    fn at(&self, region: &Origin) -> Result<(&Region, ControlTable), OperateError> {
        let region = client(self.regions, region, &self.feed.table)?;
        Ok((region, ControlTable::of(region)))
    }
}

impl Parked {
    fn of(saved: SavedEvent, region: &Region) -> Self {
        let ParkedEvent { table, key, version, reason, rejections, .. } = saved.event.clone();
        Self {
            id: saved.id.clone(),
            region: region.name.clone(),
            table,
            key: item_json(&key),
            version: version.to_string().trim_end().to_owned(),
            written_millis: version.hlc.millis(),
            rejections,
            reason,
            saved,
        }
    }
}

fn at_control(region: &Region, fault: Fault) -> OperateError {
    OperateError::at(region, &region.control_table, fault)
}
