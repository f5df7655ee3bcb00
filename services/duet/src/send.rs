//! `duet send`: files into `images`, as they are.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use duet_case::CaseId;
use duet_stage::{compute, image_record};
use duet_transport::{Broker as _, KafkaBroker, Sink, TransportError};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use walkdir::WalkDir;

use crate::{cli, config::Config, output};

/// What `ce_source` calls this command.
const NAME: &str = "send";
/// Files read and sent at the same time, in bytes and in number at most.
const AT_ONCE: usize = 8;
/// Failures that are told one by one.
const FAILURES_TOLD: usize = 20;

pub(crate) async fn run(args: &cli::Send, config: &Config) -> Result<()> {
    let files = find(&args.files)?;
    let kafka = &config.settings.kafka;
    let sink = KafkaBroker::connect(kafka).await?.sink().await?;
    let bar = bar(files.iter().map(|file| file.bytes).sum());
    let start = Instant::now();
    let total = files.len();
    let limit = kafka.max_message_bytes as u64;
    let mut sending = futures::stream::iter(files)
        .map(|file| {
            let sink = &*sink;
            async move { (send(sink, &file, limit).await, file) }
        })
        .buffer_unordered(AT_ONCE);
    let (mut sent, mut bytes, mut failed) = (0_u64, 0, Vec::new());
    while let Some((result, file)) = sending.next().await {
        bar.inc(file.bytes);
        match result {
            Ok(id) => {
                sent += 1;
                bytes += file.bytes;
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
            "{} is larger than {limit} bytes, the largest record: raise kafka.max_message_bytes and the topic's max.message.bytes, or send a smaller file",
            path.display()
        );
    }
    Ok(bytes.into())
}

/// Reads and sends one file.
async fn send(sink: &dyn Sink, file: &Found, limit: u64) -> Result<CaseId> {
    let bytes = read(&file.path, limit).await?;
    let (id, record) = compute::run(move || image_record(bytes, NAME)).await?;
    sink.send(record).await.with_context(|| format!("{} was not sent", file.path.display()))?;
    Ok(id)
}

fn is_hopeless(error: &anyhow::Error) -> bool {
    let transport = error.chain().find_map(|cause| cause.downcast_ref::<TransportError>());
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
        assert!(message.contains("max_message_bytes"), "{message}");
    }
}
