//! What the end-to-end tests stand on: a real Apache Kafka broker, and processes that end when the tests do.
//!
//! The tests themselves are one binary, `tests/e2e/`, so that the world is linked once. Deliberately absent:
//! phantoms and bad files (see `duet-testkit`), and any test that is skipped where something is missing: it fails
//! and says what to install.

mod guarded;
mod kafka;

pub use guarded::Guarded;
pub use kafka::Kafka;
