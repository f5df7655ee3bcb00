//! Every metric in one file; tracing; health endpoints
