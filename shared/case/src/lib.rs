//! The Case, its identifiers, topic names and schema
