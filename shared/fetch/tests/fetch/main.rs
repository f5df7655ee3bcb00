//! Fetching from servers on this machine: good ones, and those that cut, lie and swell.

// A test's helpers may panic: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod addresses;
mod packages;
mod support;
