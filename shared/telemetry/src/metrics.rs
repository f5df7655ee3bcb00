//! Every metric: its name, help, labels and buckets stand here and nowhere else.

use std::sync::LazyLock;

use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Registry,
    TextEncoder, core::Collector,
};

/// The process's metrics.
pub struct Metrics {
    registry: Registry,
    /// Records that left a stage, by stage and outcome (`emitted`, `rejected`, `retried`, `returned`).
    pub records: IntCounterVec,
    /// Failures, by stage and error class.
    pub failures: IntCounterVec,
    /// Records in a batch, by stage.
    pub batch: HistogramVec,
    /// Seconds that a stage took for a batch.
    pub stage_seconds: HistogramVec,
    /// Seconds that a transaction took, by stage.
    pub commit_seconds: HistogramVec,
    /// Seconds that one model took for one image, by model.
    pub model_seconds: HistogramVec,
    /// Seconds between a record's time stamp and its being taken up, by stage.
    pub queue_seconds: HistogramVec,
    /// Seconds between an image's entry and its report, by outcome.
    pub report_seconds: HistogramVec,
    /// Records that wait, by stage, topic and partition.
    pub lag: IntGaugeVec,
    /// 1 while a stage takes up nothing because too much became dead letters, by stage.
    pub paused: IntGaugeVec,
    /// Bytes written to and read from the blob store, by operation (`put`, `get`, and of the inbox `inbox_put`, `inbox_get`).
    pub blob_bytes: IntCounterVec,
    /// Images by triage decision and priority.
    pub triage: IntCounterVec,
    /// Requests to a served generalist that got no answer that counts, by reason (`duet_inference::FailureKind`) and what
    /// came of it: the image was `flagged`, or a second attempt made (`retried`).
    pub backend_failures: IntCounterVec,
    /// Cleared images that were drawn for audit, by what the specialist then said (`finding`, `no_finding`).
    pub audits: IntCounterVec,
    /// Findings above their operating points, by model and label.
    pub findings: IntCounterVec,
    /// Measurements, by model, what was measured, and result (`measured`, `implausible`, `failed`).
    pub measurements: IntCounterVec,
    /// Measured cardiothoracic ratios, by model.
    pub cardiothoracic_ratio: HistogramVec,
    /// Reports, by outcome.
    pub reports: IntCounterVec,
    /// CPU seconds, by stage.
    pub cpu_seconds: CounterVec,
    /// Estimated joules, by stage.
    pub joules: CounterVec,
    /// Requests answered, by service, route and status.
    pub http_requests: IntCounterVec,
    /// Requests that were not let through, by reason.
    pub http_refused: IntCounterVec,
    /// Requests that were let through, by the name of their token; a configuration has 256 at most.
    pub http_tokens: IntCounterVec,
    /// Until when the certificate of the listener holds, where it has one, in seconds of the epoch.
    pub tls_not_after: IntGaugeVec,
    /// Processes that decode.
    pub decoder_workers: Gauge,
    /// Processes that decode and were replaced, by reason (`memory`, `timeout`, `crashed`, `killed`, `idle`, `start`).
    pub decoder_restarts: IntCounterVec,
    /// Clients of Kafka that are in trouble, by its kind (`unreachable`, `credentials`, `forbidden`, `unknown_topic`, `evicted`, `held_up`).
    pub kafka_trouble: IntGaugeVec,
    /// Troubles that clients of Kafka came into, by kind.
    pub kafka_troubles: IntCounterVec,
    /// Seconds that the oldest record in work has been worked on, by stage; 0 where there is none.
    pub in_work_seconds: GaugeVec,
    /// Bytes of original files in the blob store's inbox, when prepare last looked.
    pub inbox_bytes: Gauge,
    /// Original files that left the inbox because their time was up.
    pub inbox_removed: IntCounterVec,
    /// Sealed identifiers, by what became of them (`sealed`, `opened`, `unknown_key`, `broken`, `unchecked`).
    pub sealed: IntCounterVec,
    /// 1 while the process is ready.
    pub ready: Gauge,
}

/// Seconds from a millisecond to a minute.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
/// Seconds from ten milliseconds to a day: how long an image waits.
const WAITS: [f64; 12] =
    [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 10800.0, 86400.0];
/// Cardiothoracic ratios: up to 0.5 is usual in adults.
const RATIOS: [f64; 9] = [0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8];
const RECORDS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The process's metrics, made at first use.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

impl Metrics {
    // A name or label that the library refuses is a mistake in this file, found by the first test that runs.
    #[allow(clippy::expect_used)]
    fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let opts = prometheus::opts!(name, help);
            register(&registry, IntCounterVec::new(opts, labels).expect(name))
        };
        let float_counter = |name: &str, help: &str, labels: &[&str]| {
            let opts = prometheus::opts!(name, help);
            register(&registry, CounterVec::new(opts, labels).expect(name))
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let opts = prometheus::histogram_opts!(name, help, buckets.to_vec());
            register(&registry, HistogramVec::new(opts, labels).expect(name))
        };
        let lag = register(
            &registry,
            IntGaugeVec::new(
                prometheus::opts!("duet_consumer_lag_records", "Records that wait to be read."),
                &["stage", "topic", "partition"],
            )
            .expect("lag"),
        );
        let paused = register(
            &registry,
            IntGaugeVec::new(
                prometheus::opts!(
                    "duet_stage_paused",
                    "1 while a stage takes up nothing because too much became dead letters, else 0."
                ),
                &["stage"],
            )
            .expect("paused"),
        );
        let ready = register(
            &registry,
            Gauge::new("duet_ready", "1 while this process is ready, else 0.").expect("ready"),
        );
        let tls_not_after = register(
            &registry,
            IntGaugeVec::new(
                prometheus::opts!(
                    "duet_tls_not_after_timestamp_seconds",
                    "When the listener's certificate expires, in seconds of the epoch."
                ),
                &["certificate"],
            )
            .expect("not after"),
        );
        let decoder_workers = register(
            &registry,
            Gauge::new("duet_decoder_workers", "Processes that decode files.").expect("workers"),
        );
        let kafka_trouble = register(
            &registry,
            IntGaugeVec::new(
                prometheus::opts!(
                    "duet_kafka_trouble",
                    "Clients of Kafka that are in trouble at the moment, by kind."
                ),
                &["kind"],
            )
            .expect("trouble"),
        );
        let in_work_seconds = register(
            &registry,
            GaugeVec::new(
                prometheus::opts!(
                    "duet_in_work_seconds",
                    "How long the oldest record in work has been worked on; 0 where there is none."
                ),
                &["stage"],
            )
            .expect("in work"),
        );
        let inbox_bytes = register(
            &registry,
            Gauge::new("duet_inbox_bytes", "Original files in the inbox of the blob store.")
                .expect("inbox"),
        );
        let build = register(
            &registry,
            IntGaugeVec::new(
                prometheus::opts!("duet_build_info", "Always 1; the version is in the label."),
                &["version"],
            )
            .expect("build"),
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("process");

        Self {
            records: counter(
                "duet_records_total",
                "Records that left a stage, by outcome.",
                &["stage", "outcome"],
            ),
            failures: counter(
                "duet_failures_total",
                "Failures, by stage and error class.",
                &["stage", "class"],
            ),
            batch: histogram(
                "duet_batch_records",
                "Records worked on together.",
                &["stage"],
                &RECORDS,
            ),
            stage_seconds: histogram(
                "duet_stage_duration_seconds",
                "Time a stage took for a batch.",
                &["stage"],
                &SECONDS,
            ),
            commit_seconds: histogram(
                "duet_commit_duration_seconds",
                "Time to publish a batch's outputs and commit its offsets.",
                &["stage"],
                &SECONDS,
            ),
            model_seconds: histogram(
                "duet_model_duration_seconds",
                "Time a model took for one image.",
                &["model"],
                &SECONDS,
            ),
            queue_seconds: histogram(
                "duet_queue_age_seconds",
                "Time between a record's time stamp and its being taken up.",
                &["stage"],
                &WAITS,
            ),
            report_seconds: histogram(
                "duet_image_to_report_seconds",
                "Time between an image's entry and its report.",
                &["outcome"],
                &WAITS,
            ),
            lag,
            paused,
            blob_bytes: counter(
                "duet_blob_bytes_total",
                "Bytes written to and read from the blob store.",
                &["operation"],
            ),
            triage: counter(
                "duet_triage_decisions_total",
                "Images by triage decision and priority.",
                &["decision", "priority"],
            ),
            backend_failures: counter(
                "duet_triage_backend_failures_total",
                "Requests to a served generalist without an answer that counts, by reason and what came of it.",
                &["reason", "then"],
            ),
            audits: counter(
                "duet_triage_audits_total",
                "Cleared images that a specialist looked at all the same, by what it said.",
                &["result"],
            ),
            findings: counter(
                "duet_findings_total",
                "Findings above their operating points.",
                &["model", "label"],
            ),
            measurements: counter(
                "duet_measurements_total",
                "Measurements by what came of them.",
                &["model", "measurement", "result"],
            ),
            cardiothoracic_ratio: histogram(
                "duet_cardiothoracic_ratio",
                "Measured cardiothoracic ratios.",
                &["model"],
                &RATIOS,
            ),
            reports: counter("duet_reports_total", "Reports by outcome.", &["outcome"]),
            cpu_seconds: float_counter(
                "duet_stage_cpu_seconds_total",
                "CPU time spent on records.",
                &["stage"],
            ),
            joules: float_counter(
                "duet_estimated_joules_total",
                "Estimated energy: CPU seconds times the configured watts of a busy core.",
                &["stage"],
            ),
            http_requests: counter(
                "duet_http_requests_total",
                "HTTP requests answered.",
                &["service", "route", "status"],
            ),
            http_refused: counter(
                "duet_http_refused_total",
                "Requests and connections that were not let through, by reason.",
                &["reason"],
            ),
            http_tokens: counter(
                "duet_http_token_requests_total",
                "Requests let through, by the name of their token.",
                &["token"],
            ),
            tls_not_after,
            decoder_workers,
            decoder_restarts: counter(
                "duet_decoder_restarts_total",
                "Processes that decode and had to be replaced, by reason.",
                &["reason"],
            ),
            kafka_trouble,
            kafka_troubles: counter(
                "duet_kafka_troubles_total",
                "Troubles that clients of Kafka came into, by kind.",
                &["kind"],
            ),
            in_work_seconds,
            inbox_bytes,
            inbox_removed: counter(
                "duet_inbox_removed_total",
                "Original files removed from the inbox, by reason.",
                &["reason"],
            ),
            sealed: counter(
                "duet_sealed_identifiers_total",
                "Identifiers sealed by prepare or opened by publish, by what became of them.",
                &["outcome"],
            ),
            ready,
            registry,
        }
    }

    /// The metrics in Prometheus' text format.
    ///
    /// # Errors
    ///
    /// Where the library cannot write them, which it does only for a metric without samples.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[allow(clippy::expect_used)] // as in `Metrics::new`
fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("each metric is registered once");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_served() {
        metrics().records.with_label_values(&["prepare", "emitted"]).inc();
        let text = String::from_utf8(metrics().encode().unwrap()).unwrap();
        assert!(text.contains("duet_records_total{outcome=\"emitted\",stage=\"prepare\"} 1"));
        assert!(text.contains("duet_build_info{"));
        assert!(text.contains("process_resident_memory_bytes"));
    }
}
