//! End to end, in one binary so that the world is linked once.

mod transport;
