//! Decoding, where a hostile file may do its worst.
//!
//! A decoder takes a file's bytes and gives its rendition or the reason why there is none. [`DecoderPool`] is what runs: child
//! processes of this same binary, one file at a time each, under a memory and a time limit, so that a file that gets the
//! better of a codec costs one process of a few megabytes and becomes one dead letter. [`InProcess`] has none of that and is
//! for tests and for commands that read the user's own files.
//!
//! Deliberately absent: any trust in what a child says. Its answer is capped, parsed and checked like a stranger's.

mod answer;
mod config;
mod confine;
mod death;
mod pool;
mod process;
mod wire;
mod worker;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use duet_imaging::{Limits, Prepared, prepare};
use duet_stage::{Reason, Setback, compute};

pub use config::DecoderConfig;
pub(crate) use config::need_mib;
pub use pool::{DecoderPool, Launch};
pub use worker::{WorkerError, work};

/// Turns a file into its rendition.
#[async_trait]
pub trait Decoder: Send + Sync + 'static {
    /// Decodes one file. Its CPU time is counted for the task that asks, wherever it is spent.
    ///
    /// # Errors
    ///
    /// A reason to reject where the file is at fault; to try again where it is not.
    async fn decode(&self, file: Bytes) -> Result<Prepared, Setback>;
}

/// Decodes on this process's compute pool, without a limit on memory or time.
pub struct InProcess {
    limits: Arc<Limits>,
}

impl InProcess {
    /// A decoder with those limits on what a file may ask for.
    pub fn new(limits: Limits) -> Self {
        Self { limits: Arc::new(limits) }
    }
}

#[async_trait]
impl Decoder for InProcess {
    async fn decode(&self, file: Bytes) -> Result<Prepared, Setback> {
        let limits = Arc::clone(&self.limits);
        let prepared = compute::run(move || prepare(&file, &limits)).await?;
        prepared.map_err(|error| Setback::Reject(Reason::of(error.class(), &error)))
    }
}
