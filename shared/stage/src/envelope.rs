//! From records to a stage's types and back: CloudEvents (Kafka binding, binary mode) and W3C Trace Context.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use duet_case::{Case, CaseId, Digest, ModelRef, Reference, Topic, TraceParent};
use duet_transport::{Headers, Outgoing, Record};

use crate::Reason;

/// What a stage can read from a record.
pub trait FromRecord: Clone + Send + 'static {
    /// # Errors
    ///
    /// A reason to reject the record.
    fn from_record(record: &Record) -> Result<Self, Reason>;

    /// The case that it is about.
    fn case_id(&self) -> CaseId;
}

impl FromRecord for Case {
    fn from_record(record: &Record) -> Result<Self, Reason> {
        Self::from_json(&record.value).map_err(|error| {
            // serde's message may quote a value; its position says enough.
            let place = format!("line {} column {}", error.line(), error.column());
            Reason::new(
                "not_a_case",
                format!(
                    "the record in {} is not a Case of this version of Duet ({place}); only Duet's own stages write there, images go into `images`",
                    record.origin.topic
                ),
            )
        })
    }

    fn case_id(&self) -> CaseId {
        self.id.clone()
    }
}

/// One record's worth of output.
#[derive(Debug, Clone)]
pub struct Payload {
    /// Where it goes.
    pub topic: Topic,
    /// For instance `application/json`.
    pub content_type: &'static str,
    /// The value.
    pub value: Bytes,
}

/// What a stage can emit.
pub trait IntoPayloads: Send + 'static {
    /// The Case within, to which the runner adds the stage's entry in the ledger.
    fn case_mut(&mut self) -> &mut Case;

    /// The records to send, the first to the topic that the outcome named.
    ///
    /// # Errors
    ///
    /// Where the Case cannot be written.
    fn into_payloads(self, topic: Topic) -> Result<Vec<Payload>, Reason>;
}

/// The Case as one line of JSON.
///
/// # Errors
///
/// Where a number in it is not finite.
pub(crate) fn case_payload(case: &Case, topic: Topic) -> Result<Payload, Reason> {
    let json = case.to_json().map_err(|error| Reason::of("unwritable_case", &error))?;
    Ok(Payload { topic, content_type: "application/json", value: json.into() })
}

impl IntoPayloads for Case {
    fn case_mut(&mut self) -> &mut Case {
        self
    }

    fn into_payloads(self, topic: Topic) -> Result<Vec<Payload>, Reason> {
        Ok(vec![case_payload(&self, topic)?])
    }
}

/// The trace that a record belongs to: its own, or the one that its case starts.
pub(crate) fn trace_of(headers: &Headers, id: &CaseId) -> TraceParent {
    let own = headers.text("traceparent").and_then(|text| text.parse().ok());
    own.unwrap_or_else(|| TraceParent::root(id))
}

/// Puts an envelope around `payload`. Its `ce_id` derives from the case, the stage, the topic and the models'
/// digests, so that the same work done twice is recognisable.
pub(crate) fn outgoing(
    payload: Payload,
    id: &CaseId,
    key: Bytes,
    stage: &str,
    models: &[ModelRef],
    trace: TraceParent,
) -> Outgoing {
    let digests: Vec<_> = models.iter().map(|model| model.sha256).collect();
    let mut parts: Vec<&[u8]> =
        vec![id.as_str().as_bytes(), stage.as_bytes(), payload.topic.name().as_bytes()];
    parts.extend(digests.iter().map(|digest| digest.as_bytes().as_slice()));
    let event = Digest::of_parts(&parts).to_string();
    let headers = Headers::default()
        .with("ce_specversion", "1.0")
        .with("ce_id", event.get(..32).unwrap_or(&event).to_owned())
        .with("ce_type", format!("duet.{}.v1", payload.topic))
        .with("ce_source", format!("/duet/{stage}"))
        .with("ce_subject", id.as_str().to_owned())
        .with("ce_time", timestamp(Utc::now()))
        .with("content-type", payload.content_type)
        .with("traceparent", trace.to_string());
    Outgoing { topic: payload.topic, key: Some(key), headers, value: payload.value }
}

/// RFC 3339 in UTC, to the millisecond.
pub(crate) fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The record that feeds a file of the inbox into `images`, and the id of its case.
pub fn reference_record(reference: &Reference, source: &str) -> (CaseId, Outgoing) {
    let id = CaseId::of_digest(&reference.sha256);
    let mut record = record_of(id.clone(), Bytes::new(), source);
    record.headers.push(Reference::HEADER, reference.header());
    (id, record)
}

/// The record of `case` that `stage` writes into `topic`, where it is not the runner that does.
///
/// # Errors
///
/// Where a number in the Case is not finite.
pub fn case_record(
    case: &Case,
    topic: Topic,
    stage: &str,
    models: &[ModelRef],
) -> Result<Outgoing, Reason> {
    let key = Bytes::copy_from_slice(case.study.as_str().as_bytes());
    let trace = TraceParent::root(&case.id).child(stage);
    Ok(outgoing(case_payload(case, topic)?, &case.id, key, stage, models, trace))
}

/// The record that feeds one file into `images`, and the id of its case.
pub fn image_record(bytes: Bytes, source: &str) -> (CaseId, Outgoing) {
    let id = CaseId::of_input(&bytes);
    let record = record_of(id.clone(), bytes, source);
    (id, record)
}

fn record_of(id: CaseId, value: Bytes, source: &str) -> Outgoing {
    let payload = Payload { topic: Topic::Images, content_type: "application/octet-stream", value };
    let key = Bytes::copy_from_slice(id.as_str().as_bytes());
    outgoing(payload, &id, key, source, &[], TraceParent::root(&id))
}
