//! The blob store: pictures by their SHA-256, claim checks
