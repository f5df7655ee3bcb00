//! What the end-to-end tests stand on: a real Apache Kafka broker, a real vision server, the services as processes, and what came out of
//! them.
//!
//! The tests themselves are one binary, `tests/e2e/`, so that the world is linked once. Deliberately absent:
//! phantoms and bad files (see `duet-testkit`), and any test that is skipped where something is missing: it fails
//! and says what to install.

pub mod chaos;
mod ends;
mod fleet;
mod guarded;
mod kafka;
pub mod leaks;
pub mod mutations;
mod s3;
pub mod soak;
mod vlm;

pub use ends::Ends;
pub use fleet::{Fleet, STAGES, binary};
pub use guarded::Guarded;
pub use kafka::{Grant, Kafka, PLAIN_USER, Secured};
pub use s3::S3;
pub use vlm::{TEMPLATE, VlmServer};
