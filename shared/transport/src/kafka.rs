//! A real cluster behind [`crate::Broker`], by librdkafka.
