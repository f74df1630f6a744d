//! The ceiling: how many conditional puts a second the endpoint accepts from this very binary, with nothing
//! around them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tradewind::config::Tuning;
use tradewind::protocol::STAMP;

use crate::Result;
use crate::application::{Application, text};
use crate::drain::BYTES;
use crate::engine::{Engine, PLACES};
use crate::figures::per_second;
use crate::plan::Plan;
use crate::process::{cpu_since, cpu_time};
use crate::stage::Stage;

/// What the endpoint can do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ceiling {
    pub per_second: f64,
    /// How many concurrent writes that takes.
    pub concurrency: usize,
    /// CPU time of the client, the SDK's own, for each put.
    pub cpu_us_per_put: Option<f64>,
    pub tried: Vec<Tried>,
}

/// The result of one concurrency.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Tried {
    pub concurrency: usize,
    pub per_second: f64,
    pub cpu_us_per_put: Option<f64>,
}

impl Ceiling {
    /// Tries several concurrencies, each on a fresh table, and keeps the best.
    pub(crate) async fn find(engine: &Engine, plan: &Plan) -> Result<Self> {
        let mut progress = plan.progress("the ceiling", Some(plan.concurrencies.len() as u64));
        // An engine gets faster as it warms up.
        let warm = plan.concurrencies.iter().copied().max().unwrap_or(1);
        let stage = Stage::set(engine, PLACES.len(), Tuning::default()).await?;
        probe(&stage, 0..PLACES.len(), warm, plan.probe_writes * 2).await?;
        let mut tried = Vec::new();
        for concurrency in &plan.concurrencies {
            progress.update(tried.len() as u64, || format!("{concurrency} writes at once"));
            let stage = Stage::set(engine, 2, Tuning::default()).await?;
            tried.push(probe(&stage, 1..2, *concurrency, plan.probe_writes).await?);
        }
        progress.finish();
        let best = tried.iter().copied().max_by(|a, b| a.per_second.total_cmp(&b.per_second));
        let Tried { concurrency, per_second, cpu_us_per_put } = best.ok_or("no concurrency to try")?;
        Ok(Self { per_second, concurrency, cpu_us_per_put, tried })
    }

    /// The current ceiling of a stage, for writes to these regions together: an engine may get slower as it
    /// fills.
    pub(crate) async fn of(&self, stage: &Stage, regions: Range<usize>, plan: &Plan) -> Result<f64> {
        Ok(probe(stage, regions, self.concurrency, plan.probe_writes).await?.per_second)
    }
}

/// Makes this many writes.
async fn probe(stage: &Stage, regions: Range<usize>, concurrency: usize, count: u64) -> Result<Tried> {
    let left = Arc::new(AtomicU64::new(count));
    let (begun, cpu) = (Instant::now(), cpu_time());
    let mut writers = JoinSet::new();
    for region in regions.cycle().take(concurrency) {
        let (client, table) = (stage.client(region).clone(), stage.table.clone());
        let application = Application { client, table, bytes: BYTES };
        let name = format!("{:016x}", fastrand::Rng::new().u64(..));
        writers.spawn(write(application, name, Arc::clone(&left)));
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    Ok(Tried {
        concurrency,
        per_second: per_second(count, begun.elapsed()),
        cpu_us_per_put: cpu_since(cpu).map(|cpu| 1e6 / per_second(count, cpu)),
    })
}

/// Writes new items as an agent does: with the same condition, and a stamp of the same length.
async fn write(application: Application, name: String, left: Arc<AtomicU64>) -> Result<()> {
    let stamp = "tw1 0000000000000000 tokyo 0000000000000000 tokyo AAAAAAAAAAAAAAAA 0000000000000000";
    let take = |left: u64| left.checked_sub(1);
    while let Ok(serial) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
        let mut item = application.item(&format!("{name}-{serial}"), Instant::now());
        item.insert(STAMP.to_owned(), text(stamp));
        application
            .client
            .put_item()
            .table_name(&application.table)
            .set_item(Some(item))
            .condition_expression("NOT #tw BETWEEN :bound AND :end")
            .expression_attribute_names("#tw", STAMP)
            .expression_attribute_values(":bound", text("tw1 0000000000000000 tokyo "))
            .expression_attribute_values(":end", text("tw1 g"))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await?;
    }
    Ok(())
}
