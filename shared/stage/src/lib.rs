//! The Stage trait and the runner that owns everything around it
