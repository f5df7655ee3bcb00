//! Sources and sinks of records: Kafka, and memory as the embedded default
