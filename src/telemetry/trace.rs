//! Traces of single records: read → classified → applied at each peer.
//!
//! They are pushed if the environment names a collector, one in a hundred unless `OTEL_TRACES_SAMPLER` says
//! otherwise; without a collector nothing is traced, at no cost.

use std::sync::{Arc, OnceLock};

use opentelemetry::trace::{SpanBuilder, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, TracerProviderBuilder};
use tokio::time::Instant;

use crate::clock::wall_clock;
use crate::log_key::log_key;
use crate::protocol::{Item, Origin};

/// The fraction of records that is traced.
const RATIO: f64 = 0.01;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Starts tracing.
pub(super) fn start(builder: TracerProviderBuilder) -> SdkTracerProvider {
    use opentelemetry::trace::TracerProvider;
    let builder = match std::env::var_os("OTEL_TRACES_SAMPLER") {
        Some(_) => builder,
        None => builder.with_sampler(Sampler::TraceIdRatioBased(RATIO)),
    };
    let provider = builder.build();
    // A process does this once.
    let _ = TRACER.set(provider.tracer("tradewind"));
    provider
}

/// The trace of one record, which ends when nothing is left to do for it.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Context>);

/// A step that has started.
#[derive(Debug)]
pub struct Step(Context);

impl Trace {
    /// Traces a record that was requested at `asked` and read at `seen`, if it is one of those sampled.
    pub fn begin(region: &Origin, table: &str, key: &Item, asked: Instant, seen: Instant) -> Option<Self> {
        let tracer = TRACER.get()?;
        let attributes = [
            KeyValue::new("tradewind.region", region.to_string()),
            KeyValue::new("tradewind.table", table.to_owned()),
        ];
        let span = tracer.build(at(tracer.span_builder("record"), asked).with_attributes(attributes));
        let context = Context::new().with_span(span);
        if !context.span().span_context().is_sampled() {
            return None;
        }
        context.span().set_attribute(KeyValue::new("tradewind.key", log_key(key)));
        let read = tracer.build_with_context(at(tracer.span_builder("read"), asked), &context);
        let read = context.with_span(read);
        read.span().end_with_timestamp(wall_clock() - seen.elapsed());
        Some(Self(Arc::new(context)))
    }

    /// Records what the record was classified as, since it was `seen`.
    pub fn classified(&self, seen: Instant, verdict: impl std::fmt::Debug) {
        if let Some(tracer) = TRACER.get() {
            let span = tracer.build_with_context(at(tracer.span_builder("classify"), seen), &self.0);
            let step = self.0.with_span(span);
            step.span().set_attribute(KeyValue::new("tradewind.verdict", format!("{verdict:?}")));
        }
    }

    /// Starts the step of writing what follows from the record to a region.
    pub fn apply(&self, peer: &Origin) -> Option<Step> {
        let tracer = TRACER.get()?;
        let span = tracer.build_with_context(tracer.span_builder("apply"), &self.0);
        let step = self.0.with_span(span);
        step.span().set_attribute(KeyValue::new("tradewind.peer", peer.to_string()));
        Some(Step(step))
    }

    /// Its ID, for a log line.
    pub fn id(&self) -> String {
        self.0.span().span_context().trace_id().to_string()
    }
}

impl Step {
    /// Ends with the outcome.
    pub fn end(self, outcome: Result<impl std::fmt::Debug, impl std::fmt::Display>) {
        match outcome {
            Ok(outcome) => {
                self.0.span().set_attribute(KeyValue::new("tradewind.outcome", format!("{outcome:?}")));
            }
            Err(error) => self.0.span().set_status(Status::error(error.to_string())),
        }
    }
}

fn at(builder: SpanBuilder, moment: Instant) -> SpanBuilder {
    builder.with_start_time(wall_clock() - moment.elapsed())
}
