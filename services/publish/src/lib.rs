//! The publish stage
