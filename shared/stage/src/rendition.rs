//! The rendition that a Case refers to, as every stage after `prepare` fetches it, and what a failure to means.

use bytes::Bytes;
use duet_blob::{BlobError, BlobStore};
use duet_case::{Case, Rendition};

use crate::{Outcome, Reason, compute::Crashed};

/// Larger than any rendition: 1024 x 1024 pixels of eight bits, stored without compression, are a quarter of it.
const MAX_RENDITION_BYTES: u64 = 4 << 20;

/// Why a stage cannot go on with an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setback {
    /// It never will.
    Reject(Reason),
    /// It may, later.
    Retry(Reason),
}

impl<T> From<Setback> for Outcome<T> {
    fn from(setback: Setback) -> Self {
        match setback {
            Setback::Reject(reason) => Self::Reject(reason),
            Setback::Retry(reason) => Self::Retry(reason),
        }
    }
}

impl From<BlobError> for Setback {
    fn from(error: BlobError) -> Self {
        if error.is_transient() {
            return Self::Retry(Reason::of("blob_store", &error));
        }
        Self::Reject(Reason::of("blob_unusable", &error))
    }
}

impl From<Crashed> for Setback {
    fn from(crashed: Crashed) -> Self {
        Self::Reject(Reason::of("crashed", &crashed))
    }
}

/// The bytes of the Case's rendition, and what the Case says of it.
///
/// # Errors
///
/// A reason to reject where there is none, or where it is missing, damaged or too large; to try again where the blob
/// store does not answer.
pub async fn fetch_rendition(
    blobs: &BlobStore,
    case: &Case,
) -> Result<(Rendition, Bytes), Setback> {
    let Some(rendition) = case.rendition.clone() else {
        let message =
            "the Case has no rendition: only prepare writes into `prepared`, and never without one";
        return Err(Setback::Reject(Reason::new("no_rendition", message)));
    };
    let png = blobs.get(rendition.blob.sha256, MAX_RENDITION_BYTES).await?;
    Ok((rendition, png))
}
