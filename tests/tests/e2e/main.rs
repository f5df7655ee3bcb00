//! End to end, in one binary so that the world is linked once.

mod fleet;
mod imports;
mod pipeline;
mod transport;
