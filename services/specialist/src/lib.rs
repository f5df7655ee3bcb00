//! The specialist stage
