//! The triage stage
