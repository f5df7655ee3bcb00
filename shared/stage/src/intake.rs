//! Files on their way into `images`: inline where the topic takes them, else by reference.
//!
//! What is larger than a record may be goes into the inbox of the blob store, part by part as it comes, and a record
//! without a value says where it is. Either way the case has the same id, and sending a file twice is harmless.

use std::{pin::pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use duet_blob::{Inbox, InboxError};
use duet_case::{CaseId, Reference, Topic};
use duet_transport::{Sink, TransportError};
use futures::{Stream, StreamExt as _};

use crate::{compute, image_record, reference_record};

/// Space made for a file before it is there.
const FIRST_PIECE: usize = 64 << 10;

/// The way into `images` for those who have files.
#[derive(Clone)]
pub struct Intake {
    sink: Arc<dyn Sink>,
    inbox: Inbox,
    source: &'static str,
}

/// A file that was taken in and is not sent yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Here, since a record takes it.
    Inline(Bytes),
    /// In the inbox.
    Stored(Reference),
}

impl Held {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Inline(file) => file.len() as u64,
            Self::Stored(reference) => reference.bytes,
        }
    }
}

/// A file that the broker has for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The id of its case.
    pub id: CaseId,
    /// Its size.
    pub bytes: u64,
    /// Whether it went by reference.
    pub by_reference: bool,
}

/// Why a file could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum TakeError<E: std::error::Error + 'static> {
    /// It could not be read to its end.
    #[error("the file broke off")]
    Broken(#[source] E),
    /// It is larger than the limit.
    #[error("the file has more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// It is too large for a record, and the inbox does not take it.
    #[error(
        "the file is too large for a record and could not be put into the inbox of the blob store"
    )]
    Inbox(#[from] InboxError),
}

/// Why a file could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The broker does not take it.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It is too large for a record, and the inbox does not take it.
    #[error(
        "the file is too large for a record and could not be put into the inbox of the blob store"
    )]
    Inbox(#[from] InboxError),
    /// Its digest could not be computed.
    #[error(transparent)]
    Crashed(#[from] compute::Crashed),
}

impl Intake {
    /// Sends through `sink`, and what is too large for a record into `inbox`. `source` is what `ce_source` says.
    pub fn new(sink: Arc<dyn Sink>, inbox: Inbox, source: &'static str) -> Self {
        Self { sink, inbox, source }
    }

    /// Takes a file of at most `limit` bytes in, whose size may be known beforehand. Never more of it is in memory than a
    /// record may have, or a few parts of it.
    ///
    /// # Errors
    ///
    /// Where it breaks off, is too large, or the inbox does not take it; nothing is left behind then.
    pub async fn take<E: std::error::Error + 'static>(
        &self,
        file: impl Stream<Item = Result<Bytes, E>>,
        announced: Option<u64>,
        limit: u64,
    ) -> Result<Held, TakeError<E>> {
        if announced.is_some_and(|bytes| bytes > limit) {
            return Err(TakeError::TooLarge { limit });
        }
        let inline = self.sink.inline_limit(Topic::Images).await as u64;
        let mut file = pin!(file);
        let mut held = BytesMut::with_capacity(FIRST_PIECE.min(limit as usize));
        let mut upload = match announced {
            Some(bytes) if bytes > inline => Some(self.inbox.begin().await?),
            _ => None,
        };
        while let Some(piece) = file.next().await {
            let piece = piece.map_err(TakeError::Broken)?;
            let before = upload.as_ref().map_or(held.len() as u64, |upload| upload.bytes());
            let bytes = before + piece.len() as u64;
            if bytes > limit {
                return Err(TakeError::TooLarge { limit });
            }
            if bytes > inline && upload.is_none() {
                let mut begun = self.inbox.begin().await?;
                begun.write(std::mem::take(&mut held).freeze()).await?;
                upload = Some(begun);
            }
            match &mut upload {
                Some(upload) => upload.write(piece).await?,
                None => held.extend_from_slice(&piece),
            }
        }
        match upload {
            Some(upload) => Ok(Held::Stored(upload.finish().await?)),
            None => Ok(Held::Inline(held.freeze())),
        }
    }

    /// Sends a file that was taken in, and returns once the broker has it for good. Where the topic takes less than its
    /// settings said, the file goes by reference.
    ///
    /// # Errors
    ///
    /// Where the broker, or for a large file the inbox, does not take it.
    pub async fn send(&self, held: Held) -> Result<Sent, SendError> {
        let bytes = held.bytes();
        let reference = match held {
            Held::Stored(reference) => reference,
            Held::Inline(file) => {
                let (copy, source) = (file.clone(), self.source);
                let (id, record) = compute::run(move || image_record(copy, source)).await?;
                match self.sink.send(record).await {
                    Ok(_) => return Ok(Sent { id, bytes, by_reference: false }),
                    Err(TransportError::TooLarge { .. }) => self.inbox.put(file).await?,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let (id, record) = reference_record(&reference, self.source);
        self.sink.send(record).await?;
        Ok(Sent { id, bytes, by_reference: true })
    }
}
