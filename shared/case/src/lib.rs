//! The Case: one JSON document that follows one image from `images` to `reports`, with its identifiers,
//! topic names and schema.
//!
//! Every other crate of Duet imports this one and it imports none of them. A stage adds its own section to the
//! Case and one entry in [`Case::hops`]; the finished Case in `reports` is the whole ledger of that image.
//!
//! Deliberately absent: I/O, pixels (they live in the blob store under their digest) and anything that names a
//! patient.

mod case;
mod ids;
mod measure;
mod measured;
mod reference;
mod scan;
mod schema;
mod topic;
mod trace;
mod verdict;

pub use case::{
    Case, Conclusion, DeadLetterHeader, Hop, Outcome, Publication, REDRIVE_HEADER, SCHEMA_VERSION,
};
pub use ids::{BlobRef, CaseId, Digest, DigestError, ModelRef, StudyKey};
pub use measure::{Probability, ProbabilityError};
pub use measured::{MeasuredArea, MeasuredLine, Measurement};
pub use reference::{Reference, ReferenceError};
pub use scan::{Format, PatientContext, Rendition, Sealed, Sex, Source, WindowMethod};
pub use schema::case_schema;
pub use topic::{Topic, UnknownTopic};
pub use trace::{TraceParent, TraceParentError};
pub use verdict::{
    Assessment, Code, Decision, Finding, LabelScore, PixelBox, Priority, Region, Score, Triage,
    TriageRules,
};
