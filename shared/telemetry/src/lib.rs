//! Every metric of Duet in one file, tracing, and the health endpoints that every service serves.
//!
//! Imported by everything that measures; imports only `duet-case`. Deliberately absent: any label whose values
//! come from an image, a patient or a file name, since they identify people and have no bound.

mod health;
mod logging;
mod metrics;

pub use health::{Health, HealthItem, ops_router};
pub use logging::{LogFormat, UnknownFilter, init};
pub use metrics::{Metrics, metrics};
