//! Where metrics and traces go: to scrapers, and to a collector, if the environment names one.

use std::time::Duration;

use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::{Encoder, Registry, TextEncoder};

use super::trace;
use crate::protocol::Origin;

/// How long a stopping process gives the collector to accept what is left.
const LAST_PUSH: Duration = Duration::from_secs(3);

/// The metrics and traces of this process. [`Self::end`] pushes them for the last time.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    meters: SdkMeterProvider,
    traces: Option<SdkTracerProvider>,
}

/// Why metrics are not available.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("can't push metrics to the collector named by OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
    Push(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("can't set up metrics scraping: {0}")]
    Scrape(#[from] opentelemetry_sdk::error::OTelSdkError),
    #[error("can't encode metrics: {0}")]
    Write(#[from] prometheus::Error),
}

impl Telemetry {
    /// Starts keeping metrics and tracing records. Earlier measurements are lost.
    ///
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector to push metrics to once a minute, and traces;
    /// OpenTelemetry's other variables apply as well.
    pub fn start(region: Option<&Origin>) -> Result<Self, TelemetryError> {
        let registry = Registry::new();
        let scraped = opentelemetry_prometheus::exporter().with_registry(registry.clone());
        let mut meters = SdkMeterProvider::builder()
            .with_resource(resource(region))
            .with_reader(scraped.scope_info_enabled(false).build()?);
        if names_collector("METRICS") {
            meters = meters.with_periodic_exporter(MetricExporter::builder().with_http().build()?);
        }
        let meters = meters.build();
        global::set_meter_provider(meters.clone());
        let traces = if names_collector("TRACES") {
            let pushed = SpanExporter::builder().with_http().build()?;
            let traces = SdkTracerProvider::builder().with_resource(resource(region));
            Some(trace::start(traces.with_batch_exporter(pushed)))
        } else {
            None
        };
        Ok(Self { registry, meters, traces })
    }

    /// The metrics in Prometheus's text format.
    pub fn scrape(&self) -> Result<String, TelemetryError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Pushes what is left.
    pub async fn end(&self) {
        let (meters, traces) = (self.meters.clone(), self.traces.clone());
        // This blocks; the collector may not answer.
        let push = tokio::task::spawn_blocking(move || {
            let _ = meters.shutdown_with_timeout(LAST_PUSH);
            traces.map(|traces| traces.shutdown_with_timeout(LAST_PUSH))
        });
        let _ = tokio::time::timeout(LAST_PUSH, push).await;
    }
}

/// Whether the environment names a collector for `signal`.
fn names_collector(signal: &str) -> bool {
    let set = |name: String| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    set("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned()) || set(format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))
}

fn resource(region: Option<&Origin>) -> Resource {
    let region = region.map(|region| KeyValue::new("tradewind.region", region.to_string()));
    let name = std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| "tradewind".to_owned());
    Resource::builder()
        .with_service_name(name)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(region)
        .build()
}
