//! The prepare stage
