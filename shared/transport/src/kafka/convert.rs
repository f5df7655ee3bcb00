//! Records as librdkafka has them, to ours and back.

use bytes::Bytes;
use chrono::DateTime;
use duet_case::Topic;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message, OwnedHeaders};

use crate::{Headers, Origin, Record};

/// The record in `message`. Its epoch is set when it enters the buffer.
pub(super) fn record(topic: Topic, message: &BorrowedMessage<'_>) -> Record {
    let mut headers = Headers::default();
    for header in message.headers().into_iter().flat_map(|all| all.iter()) {
        headers.push(header.key, Bytes::copy_from_slice(header.value.unwrap_or_default()));
    }
    Record {
        origin: Origin {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            epoch: 0,
        },
        timestamp: message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis),
        key: message.key().map(Bytes::copy_from_slice),
        headers,
        value: message.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
    }
}

pub(super) fn headers(headers: &Headers) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |all, (key, value)| {
        all.insert(Header { key, value: Some(&value[..]) })
    })
}
