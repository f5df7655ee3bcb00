//! `duet send`: files into `images`, as they are; what is too large for a record goes through the inbox of the blob store.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use duet_case::Reference;
use duet_stage::{Intake, SendError, Sent, TakeError};
use duet_transport::{Broker as _, KafkaBroker, TransportError};
use futures::{Stream, StreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use walkdir::WalkDir;

use crate::{cli, config::Config, output, places};

/// What `ce_source` calls this command.
const NAME: &str = "send";
/// Files read and sent at the same time, in bytes and in number at most.
const AT_ONCE: usize = 8;
/// Read from a file at a time.
const PIECE: usize = 1 << 20;
/// Failures that are told one by one.
const FAILURES_TOLD: usize = 20;

pub(crate) async fn run(args: &cli::Send, config: &Config) -> Result<()> {
    let files = find(&args.files)?;
    let kafka = &config.settings.kafka;
    let sink = KafkaBroker::connect(kafka).await?.sink().await?;
    let intake = Intake::new(sink, places::blobs(config)?.inbox(), NAME);
    let bar = bar(files.iter().map(|file| file.bytes).sum());
    let start = Instant::now();
    let total = files.len();
    let limit = config.settings.prepare.limits.max_bytes;
    let mut sending = futures::stream::iter(files)
        .map(|file| {
            let intake = &intake;
            async move { (send(intake, &file, limit).await, file) }
        })
        .buffer_unordered(AT_ONCE);
    let (mut sent, mut referred, mut bytes, mut failed) = (0_u64, 0_u64, 0, Vec::new());
    while let Some((result, file)) = sending.next().await {
        bar.inc(file.bytes);
        match result {
            Ok(Sent { id, bytes: size, by_reference }) => {
                sent += 1;
                referred += u64::from(by_reference);
                bytes += size;
                bar.set_message(format!("{sent} of {total} files"));
                if args.ids {
                    bar.suspend(|| output::line(format_args!("{id}  {}", file.path.display())))?;
                }
            }
            // Without the cluster the other files would only fail as well.
            Err(error) if is_hopeless(&error) => {
                bar.abandon();
                return Err(error.context(format!("stopped after {sent} of {total} files")));
            }
            Err(error) => failed.push(error),
        }
    }
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64().max(1e-3);
    output::note(format_args!(
        "sent {sent} of {total} files, {} in {seconds:.1} s ({}/s) to {}",
        output::bytes(bytes),
        output::bytes((bytes as f64 / seconds) as u64),
        kafka.name_of(duet_case::Topic::Images),
    ));
    if referred > 0 {
        output::note(format_args!(
            "{referred} of them by reference, since they are too large for a record: they are in {}/{}, which prepare has to reach as well (blob.url)",
            places::blob_url(config)?.trim_end_matches('/'),
            Reference::INBOX,
        ));
    }
    if failed.is_empty() {
        return Ok(());
    }
    for error in failed.iter().take(FAILURES_TOLD) {
        output::complain(error);
    }
    bail!("{} of {total} files were not sent", failed.len())
}

/// One file and its size as the folder tells it.
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// Every file that is named, and every file below a folder that is named, in the order of their names.
pub(crate) fn find(named: &[PathBuf]) -> Result<Vec<Found>> {
    let mut files = Vec::new();
    for path in named {
        let before = files.len();
        for entry in WalkDir::new(path).follow_links(true).sort_by_file_name() {
            let entry = entry.map_err(|error| {
                let place = error.path().unwrap_or(path).display().to_string();
                let cause = error
                    .into_io_error()
                    .unwrap_or_else(|| std::io::Error::other("its links lead in a circle"));
                anyhow::Error::new(cause).context(format!("{place} cannot be read"))
            })?;
            if entry.file_type().is_file() {
                let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
                files.push(Found { path: entry.into_path(), bytes });
            }
        }
        if files.len() == before {
            bail!("there is no file in {}", path.display());
        }
    }
    Ok(files)
}

/// The file's bytes, refused where there are more than `limit`.
pub(crate) async fn read(path: &Path, limit: u64) -> Result<Bytes> {
    let open = || async {
        let file = tokio::fs::File::open(path).await?;
        let mut bytes = Vec::new();
        let mut capped = tokio::io::AsyncReadExt::take(file, limit + 1);
        tokio::io::AsyncReadExt::read_to_end(&mut capped, &mut bytes).await?;
        std::io::Result::Ok(bytes)
    };
    let bytes = open().await.with_context(|| format!("{} cannot be read", path.display()))?;
    if bytes.len() as u64 > limit {
        bail!(
            "{} is larger than the {limit} bytes that a file may have: raise prepare.limits.max_bytes, or send a smaller file",
            path.display()
        );
    }
    Ok(bytes.into())
}

/// Reads and sends one file, piece by piece where it is too large for a record.
async fn send(intake: &Intake, file: &Found, limit: u64) -> Result<Sent> {
    let path = file.path.display();
    let open = tokio::fs::File::open(&file.path).await;
    let open = open.with_context(|| format!("{path} cannot be read"))?;
    // Its size is asked anew: the file may have grown since it was found.
    let bytes = open.metadata().await.map_or(file.bytes, |metadata| metadata.len());
    let held = intake.take(pieces(open), Some(bytes), limit).await.map_err(|error| match error {
        TakeError::TooLarge { limit } => anyhow!(
            "{path} is larger than the {limit} bytes that prepare reads: raise prepare.limits.max_bytes, or send a smaller file"
        ),
        TakeError::Broken(error) => anyhow::Error::new(error).context(format!("{path} cannot be read")),
        TakeError::Inbox(error) => anyhow::Error::new(error).context(format!(
            "{path} is too large for a record, and was not put into the blob store (blob.url)"
        )),
    })?;
    intake.send(held).await.with_context(|| format!("{path} was not sent"))
}

/// What is in an open file.
fn pieces(file: tokio::fs::File) -> impl Stream<Item = std::io::Result<Bytes>> {
    futures::stream::try_unfold(file, async |mut file| {
        let mut piece = Vec::with_capacity(PIECE);
        let mut capped = tokio::io::AsyncReadExt::take(&mut file, PIECE as u64);
        let count = tokio::io::AsyncReadExt::read_to_end(&mut capped, &mut piece).await?;
        Ok((count > 0).then(|| (Bytes::from(piece), file)))
    })
}

fn is_hopeless(error: &anyhow::Error) -> bool {
    let transport = error.chain().find_map(|cause| match cause.downcast_ref::<SendError>() {
        Some(SendError::Transport(error)) => Some(error),
        _ => None,
    });
    transport.is_some_and(|error| !matches!(error, TransportError::TooLarge { .. }))
}

/// A bar over bytes, where standard error is a terminal.
fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let style = "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {msg} {eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use duet_blob::BlobStore;
    use duet_case::{CaseId, Topic};
    use duet_transport::{MemoryBroker, MemoryLimits, Start};

    use super::*;

    #[test]
    fn folders_are_searched_to_their_ends_and_an_empty_one_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("film.dcm"), b"film").unwrap();
        std::fs::write(folder.path().join("note.txt"), b"").unwrap();
        let found = find(&[folder.path().to_owned(), inner.join("film.dcm")]).unwrap();
        let names: Vec<_> =
            found.iter().map(|file| file.path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["film.dcm", "note.txt", "film.dcm"]);
        assert_eq!(found[0].bytes, 4);

        let empty = folder.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        for wrong in [empty, folder.path().join("absent")] {
            let message = format!("{:#}", find(std::slice::from_ref(&wrong)).err().unwrap());
            assert!(message.contains(&*wrong.to_string_lossy()), "{message}");
        }
    }

    #[tokio::test]
    async fn a_file_over_the_limit_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"12345").unwrap();
        assert_eq!(read(file.path(), 5).await.unwrap(), "12345");
        let message = read(file.path(), 4).await.unwrap_err().to_string();
        assert!(message.contains("prepare.limits.max_bytes"), "{message}");
    }

    #[tokio::test]
    async fn a_large_file_goes_by_reference_and_a_small_one_does_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let broker = MemoryBroker::new(MemoryLimits { bytes: 4 << 20, records: 9 });
        let blobs = BlobStore::memory();
        let intake = Intake::new(Arc::new(broker.clone()), blobs.inbox(), NAME);
        for (size, by_reference) in [(2 << 20, false), ((2 << 20) + 1, true)] {
            let bytes = vec![7; size];
            std::fs::write(file.path(), &bytes).unwrap();
            let found = Found { path: file.path().to_owned(), bytes: 0 };
            let expected = Sent { id: CaseId::of_input(&bytes), bytes: size as u64, by_reference };
            assert_eq!(send(&intake, &found, 1 << 30).await.unwrap(), expected);
            let error = format!("{:#}", send(&intake, &found, size as u64 - 1).await.unwrap_err());
            assert!(error.contains("prepare.limits.max_bytes"), "{error}");
        }
        let mut tail = broker.tail(&[Topic::Images], Start::Beginning).await.unwrap();
        let records = tail.poll(9, Duration::ZERO).await.unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(
            (records[0].value.len(), records[0].headers.get(Reference::HEADER)),
            (2 << 20, None)
        );
        let header = records[1].headers.get(Reference::HEADER).unwrap();
        let reference = Reference::from_header(header).unwrap();
        assert!(records[1].value.is_empty());
        assert_eq!(blobs.inbox().fetch(&reference, 1 << 30).await.unwrap().len(), (2 << 20) + 1);
    }
}
