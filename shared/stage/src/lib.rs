//! The [`Stage`] trait and the runner that owns everything around it.
//!
//! A stage turns a batch of inputs into one [`Outcome`] each and knows nothing of Kafka. The runner owns the rest,
//! once, for all stages: polling, batching, back-pressure, retries with back-off, dead letters, transactions,
//! metrics, spans, readiness and draining.
//!
//! Deliberately absent: what a stage does with an image, and any registry of stages (the topics are the graph).

mod attempts;
pub mod compute;
mod config;
mod dead_letter;
mod envelope;
mod in_work;
mod index;
mod intake;
mod limit;
mod outcome;
mod redrive;
mod rendition;
mod runner;
pub mod web;

use std::future::Future;

use duet_case::{Case, ModelRef, Topic};

pub use config::{RunnerConfig, RunnerConfigError};
pub use dead_letter::{DeadLetter, NoWayBack, original, split};
pub use envelope::{
    FromRecord, IntoPayloads, Payload, case_record, image_record, reference_record,
};
pub use index::{
    CaseEntry, CaseIndex, CaseState, Counts, DeadLetterNote, FindingNote, HeldCase, IndexConfig,
    Show, Summary, Update, Updates,
};
pub use intake::{Held, Intake, SendError, Sent, TakeError};
pub use outcome::{Outcome, Reason};
pub use redrive::{LetterKey, Redrive, Redriven, redriven};
pub use rendition::{Setback, fetch_rendition};
pub use runner::{RunError, run};

/// One step between topics.
pub trait Stage: Send + Sync + 'static {
    /// Name in the ledger, metrics, logs and consumer group.
    const NAME: &'static str;
    /// Topics that it reads.
    const INPUTS: &'static [Topic];
    /// What it makes of a record's value.
    type In: FromRecord;
    /// What it emits.
    type Out: IntoPayloads;

    /// The models that spoke in this stage about `case`, which it emits: for the ledger and for the identity of the
    /// record.
    fn models(&self, _case: &Case) -> Vec<ModelRef> {
        Vec::new()
    }

    /// Works on a batch: exactly one outcome for each input, in order. It is called again with those that came back
    /// as [`Outcome::Retry`], so it must not consume what it cannot do again.
    fn process(&self, batch: Vec<Self::In>)
    -> impl Future<Output = Vec<Outcome<Self::Out>>> + Send;
}
