//! A client that has forgotten its cluster is told where it is.
//!
//! A broker that has just come up and is not let in yet tells of topics, but of no brokers. The client (librdkafka
//! 2.12, and still 2.15) takes it at its word, drops every broker that it knew, those of `bootstrap.servers` among
//! them, and never asks again: <https://github.com/confluentinc/librdkafka/issues/5301>.

use std::{
    ffi::CString,
    sync::atomic::{AtomicBool, Ordering},
};

use rdkafka::{ClientContext, Statistics, bindings::rd_kafka_brokers_add, client::Client};
use tracing::info;

/// Whether a client knows of any broker.
#[derive(Default)]
pub(super) struct Memory(AtomicBool);

impl Memory {
    /// Takes note of what the client tells of itself.
    pub(super) fn observe(&self, statistics: &Statistics) {
        let is_real = |source: &str| matches!(source, "configured" | "learned");
        let knows = statistics.brokers.values().any(|broker| is_real(&broker.source));
        self.0.store(!knows, Ordering::Release);
    }

    /// Names `servers` to `client` again, where it knows of none.
    pub(super) fn refresh(&self, client: &Client<impl ClientContext>, servers: &str) {
        if !self.0.swap(false, Ordering::AcqRel) {
            return;
        }
        let Ok(list) = CString::new(servers) else { return };
        info!("the Kafka client knows of no broker any more: asking {servers} again");
        add(client, &list);
    }
}

#[allow(unsafe_code, reason = "the bindings have no safe call for it")]
fn add(client: &Client<impl ClientContext>, list: &CString) {
    // SAFETY: the client lives for as long as it is borrowed, the list for as long as the call, which copies it; any
    // thread may make the call.
    unsafe { rd_kafka_brokers_add(client.native_ptr(), list.as_ptr()) };
}
