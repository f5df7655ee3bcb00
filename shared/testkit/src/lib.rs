//! Builders, phantoms and compliance checks for tests and the offline demo
