//! One file on its way into the inbox, part by part: of a file of any size, a few parts are in memory.

use std::collections::VecDeque;

use bytes::Bytes;
use duet_case::{Digest, Reference};
use duet_telemetry::metrics;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload, path::Path};
use sha2::{Digest as _, Sha256};
use tokio::{
    runtime::Handle,
    task::{JoinHandle, spawn_blocking},
};

use crate::{Inbox, InboxError, inbox::location};

/// S3 takes no part of less than 5 MiB but the last, and some servers want them of one size.
const PART: usize = 8 << 20;

/// Where files are until their digest is known.
const INCOMING: &str = "incoming";

/// A file that is being put into the inbox. Dropped before [`Upload::finish`], it leaves nothing behind.
pub struct Upload {
    inbox: Inbox,
    incoming: Path,
    /// `None` once the parts are one object.
    parts: Option<Box<dyn MultipartUpload>>,
    /// What does not fill a part yet.
    filling: VecDeque<Bytes>,
    filled: usize,
    /// The part that is under way.
    sending: Option<JoinHandle<Result<(), InboxError>>>,
    hasher: Sha256,
    bytes: u64,
}

impl Upload {
    pub(crate) async fn begin(inbox: Inbox) -> Result<Self, InboxError> {
        let name = hex::encode(rand::random::<[u8; 16]>());
        let incoming = Path::from_iter([Reference::INBOX, INCOMING, &name]);
        let begun = async { inbox.store.put_multipart(&incoming).await.map_err(InboxError::Store) };
        let parts = inbox.in_time(0, begun).await?;
        Ok(Self {
            inbox,
            incoming,
            parts: Some(parts),
            filling: VecDeque::new(),
            filled: 0,
            sending: None,
            hasher: Sha256::new(),
            bytes: 0,
        })
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds to the file. Waits while a part is under way and the next one is full.
    ///
    /// # Errors
    ///
    /// Where the store does not take it.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), InboxError> {
        self.bytes += piece.len() as u64;
        self.filled += piece.len();
        self.filling.push_back(piece);
        while self.filled >= PART {
            self.send_part().await?;
        }
        Ok(())
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    ///
    /// Where the store does not take it.
    pub async fn finish(mut self) -> Result<Reference, InboxError> {
        if self.filled > 0 {
            self.send_part().await?;
        }
        self.settle().await?;
        let digest = Digest::from_bytes(std::mem::take(&mut self.hasher).finalize().into());
        let Some(parts) = &mut self.parts else { return Err(InboxError::Missing { digest }) };
        let complete = async { parts.complete().await.map_err(InboxError::Store) };
        self.inbox.in_time(self.bytes, complete).await?;
        self.parts = None;
        let (store, place) = (&self.inbox.store, location(&digest));
        // In place of an older one, whose time is then counted anew.
        let name = async { store.rename(&self.incoming, &place).await.map_err(InboxError::Store) };
        if let Err(error) = self.inbox.in_time(self.bytes, name).await {
            // What this does not remove goes with its time.
            let _left = store.delete(&self.incoming).await;
            return Err(error);
        }
        metrics().blob_bytes.with_label_values(&["inbox_put"]).inc_by(self.bytes);
        Ok(Reference::to(digest, self.bytes))
    }

    async fn send_part(&mut self) -> Result<(), InboxError> {
        let part = self.take_part();
        let mut hasher = std::mem::take(&mut self.hasher);
        let hashed = spawn_blocking(move || {
            part.iter().for_each(|piece| hasher.update(piece));
            (hasher, part)
        });
        let (hasher, part) = hashed.await?;
        self.hasher = hasher;
        self.settle().await?;
        if let Some(parts) = &mut self.parts {
            let sent = parts.put_part(PutPayload::from_iter(part));
            let inbox = self.inbox.clone();
            self.sending = Some(tokio::spawn(async move {
                inbox.in_time(0, async { sent.await.map_err(InboxError::Store) }).await
            }));
        }
        Ok(())
    }

    /// A part's worth of what has come, or what there is.
    fn take_part(&mut self) -> Vec<Bytes> {
        let (mut part, mut room) = (Vec::new(), PART);
        while room > 0 {
            let Some(mut piece) = self.filling.pop_front() else { break };
            if piece.len() > room {
                self.filling.push_front(piece.split_off(room));
            }
            room -= piece.len();
            part.push(piece);
        }
        self.filled -= PART - room;
        part
    }

    /// Waits for the part that is under way.
    async fn settle(&mut self) -> Result<(), InboxError> {
        match self.sending.take() {
            Some(sending) => sending.await?,
            None => Ok(()),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else { return };
        let sending = self.sending.take();
        // Where there is no runtime any more, the store's own rule for uploads that broke off has to do.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                if let Some(sending) = sending {
                    // What becomes of a part that is thrown away does not matter.
                    let _thrown_away = sending.await;
                }
                let _left = parts.abort().await;
            });
        }
    }
}
