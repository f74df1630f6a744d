//! The ceiling: how many conditional puts a second the endpoint takes, from this very binary,
//! with nothing around them.

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
use crate::engine::Engine;
use crate::figures::per_second;
use crate::plan::Plan;
use crate::process::{cpu_since, cpu_time};
use crate::stage::Stage;

/// What the endpoint can do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ceiling {
    pub per_second: f64,
    /// How many writes at once it takes for that.
    pub concurrency: usize,
    /// CPU time of the client, the SDK's own, for one of them.
    pub cpu_us_per_put: Option<f64>,
    pub tried: Vec<Tried>,
}

/// One concurrency.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Tried {
    pub concurrency: usize,
    pub per_second: f64,
    pub cpu_us_per_put: Option<f64>,
}

/// Measures the ceiling, now and again: an engine gets faster as it warms up, and slower as it
/// fills.
pub(crate) struct Prober<'a> {
    stage: Stage,
    plan: &'a Plan,
    ceiling: Ceiling,
}

impl<'a> Prober<'a> {
    /// Tries several concurrencies, and keeps the best.
    pub(crate) async fn find(engine: &Engine, plan: &'a Plan) -> Result<Self> {
        let stage = Stage::set(engine, 3, Tuning::default()).await?;
        let ceiling = Ceiling { per_second: 0.0, concurrency: 0, cpu_us_per_put: None, tried: Vec::new() };
        let mut prober = Self { stage, plan, ceiling };
        let warm = plan.concurrencies.iter().copied().max().unwrap_or(1);
        let mut progress = plan.progress("the ceiling", Some(plan.concurrencies.len() as u64 + 1));
        prober.probe(warm, 1).await?;
        for (i, concurrency) in plan.concurrencies.iter().enumerate() {
            progress.update(i as u64 + 1, || format!("{concurrency} writes at once"));
            let tried = prober.probe(*concurrency, 1).await?;
            prober.ceiling.tried.push(tried);
        }
        progress.finish();
        let best = prober.ceiling.tried.iter().copied().max_by(|a, b| a.per_second.total_cmp(&b.per_second));
        let best = best.ok_or("no concurrency to try")?;
        let Tried { concurrency, per_second, cpu_us_per_put } = best;
        prober.ceiling = Ceiling { per_second, concurrency, cpu_us_per_put, tried: prober.ceiling.tried };
        Ok(prober)
    }

    pub(crate) fn ceiling(&self) -> &Ceiling {
        &self.ceiling
    }

    /// The ceiling as it is now, of writes to this many replicas together.
    pub(crate) async fn again(&self, replicas: usize) -> Result<f64> {
        Ok(self.probe(self.ceiling.concurrency, replicas).await?.per_second)
    }

    async fn probe(&self, concurrency: usize, replicas: usize) -> Result<Tried> {
        let made = Arc::new(AtomicU64::new(0));
        let (begun, cpu) = (Instant::now(), cpu_time());
        let end = begun + self.plan.probe;
        let mut writers = JoinSet::new();
        for writer in 0..concurrency {
            let application = Application {
                client: self.stage.client((1 + writer % replicas) % 3).clone(),
                table: self.stage.table.clone(),
                bytes: BYTES,
            };
            writers.spawn(write(
                application,
                format!("{:08x}", fastrand::Rng::new().u32(..)),
                end,
                Arc::clone(&made),
            ));
        }
        while let Some(ended) = writers.join_next().await {
            ended??;
        }
        let made = made.load(Ordering::Relaxed);
        let cpu = cpu_since(cpu);
        Ok(Tried {
            concurrency,
            per_second: per_second(made, begun.elapsed()),
            cpu_us_per_put: cpu.map(|cpu| 1e6 / per_second(made, cpu)),
        })
    }
}

/// Writes new items as an agent does: the same condition, a stamp of the same length.
async fn write(application: Application, name: String, end: Instant, made: Arc<AtomicU64>) -> Result<()> {
    let stamp = "tw1 0000000000000000 tokyo 0000000000000000 tokyo AAAAAAAAAAAAAAAA 0000000000000000";
    let mut serial = 0_u64;
    while Instant::now() < end {
        serial += 1;
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
        made.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
