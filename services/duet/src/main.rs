//! Duet's one binary.
fn main() {}
