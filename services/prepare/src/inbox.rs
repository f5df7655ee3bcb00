//! Keeping the inbox: original files go when their time is up.

use std::time::Duration;

use duet_blob::Inbox;
use duet_telemetry::metrics;
use rand::Rng as _;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the inbox is looked through, where the retention is not shorter.
const OFTEN: Duration = Duration::from_secs(3600);

/// Until `shutdown`, removes every file from `inbox` before it is older than `retention`. Each replica of prepare does, and
/// none is in another's way.
pub async fn keep_inbox(inbox: Inbox, retention: Duration, shutdown: CancellationToken) {
    let pause = OFTEN.min(retention / 4);
    // A file that stays is looked at again before it is too old.
    let age = retention.saturating_sub(pause);
    let mut is_failing = false;
    loop {
        match inbox.sweep(age).await {
            Ok(swept) => {
                is_failing = false;
                let metrics = metrics();
                metrics.inbox_bytes.set(swept.left_bytes as f64);
                metrics.inbox_removed.with_label_values(&["retention"]).inc_by(swept.removed);
                if swept.removed > 0 {
                    info!(removed = swept.removed, left = swept.left, "files left the inbox");
                }
            }
            Err(error) => {
                metrics().failures.with_label_values(&["prepare", "inbox"]).inc();
                // One line, not one for every attempt.
                if !is_failing {
                    warn!(
                        "original files stay in the blob store's inbox, where they may become older than kafka.guarded_retention_hours: {error}. prepare has to be allowed to list and delete under inbox/"
                    );
                }
                is_failing = true;
            }
        }
        // Replicas do not march in step, and no file is late.
        let wait = pause.mul_f64(rand::rng().random_range(0.5..0.9));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use duet_blob::BlobStore;

    use super::*;

    #[tokio::test]
    async fn no_file_stays_longer_than_its_retention() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(&format!("file://{}", folder.path().display())).unwrap();
        let inbox = store.inbox();
        let shutdown = CancellationToken::new();
        let retention = Duration::from_secs(2);
        let keeping = tokio::spawn(keep_inbox(inbox.clone(), retention, shutdown.clone()));
        let film = inbox.put(Bytes::from_static(b"film")).await.unwrap();
        sleep(retention / 2).await;
        assert!(inbox.fetch(&film, 9).await.is_ok(), "it went too early");
        sleep(retention).await;
        assert!(inbox.fetch(&film, 9).await.is_err(), "it is still there");
        shutdown.cancel();
        keeping.await.unwrap();
    }
}
