//! End to end, in one binary so that the world is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod access;
mod chaos;
mod claim;
mod dead_letters;
mod fleet;
mod imports;
mod leaks;
mod mutations;
mod pipeline;
mod replay;
mod secured;
mod stalls;
mod transport;
mod vlm;
