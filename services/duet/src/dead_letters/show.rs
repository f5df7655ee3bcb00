//! `duet dead-letters show`.

use std::{
    fs::OpenOptions, io::Write as _, ops::ControlFlow, os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use duet_blob::BlobStore;
use duet_case::{DeadLetterHeader as Header, Reference};
use duet_stage::split;
use duet_transport::Archive;
use serde_json::json;

use super::{Entry, Filter, bar, sent, walk};
use crate::{cli, config::Config, output, places};

/// Characters of a key or a header's value that are shown.
const SHOWN: usize = 300;
/// Further letters that are named.
const NAMED: usize = 20;

pub(super) async fn run(
    args: &cli::ShowLetter,
    config: &Config,
    broker: &dyn Archive,
) -> Result<()> {
    let filter = Filter::named(&args.letter);
    let sent = sent(broker).await?;
    let bar = bar();
    let (mut newest, mut others) = (None::<Entry>, Vec::new());
    walk(
        broker,
        &filter,
        |key| sent.contains(key),
        &bar,
        async |entry| {
            let when = |entry: &Entry| entry.letter.given_up_at();
            let older = match newest.take() {
                Some(known) if when(&known) > when(&entry) => {
                    newest = Some(known);
                    Some(entry)
                }
                known => {
                    newest = Some(entry);
                    known
                }
            };
            if others.len() <= NAMED {
                others.extend(older.map(|entry| entry.id()));
            }
            Ok(ControlFlow::Continue(()))
        },
    )
    .await?;
    bar.finish_and_clear();
    let Some(entry) = newest else {
        bail!(
            "no dead letter is called {:?}: give an id as `duet dead-letters list` shows it (2-17), where the record came from (images-0-5), or a case's id; the topic keeps letters for as long as its retention says",
            args.letter
        );
    };
    if args.json {
        tell_json(&entry, &others)?
    } else {
        tell(&entry, &others)?
    }
    if let Some(file) = &args.save {
        let bytes = original_bytes(&entry, config).await?;
        save(file, &bytes)?;
        output::note(format_args!(
            "{}: {} as they came in, readable by you alone. They may name a patient: remove the file when you are done",
            file.display(),
            output::bytes(bytes.len() as u64)
        ));
    }
    Ok(())
}

/// The record's value, or the file of the inbox that it refers to.
async fn original_bytes(entry: &Entry, config: &Config) -> Result<Bytes> {
    let (own, _) = split(&entry.record.headers);
    let Some(header) = own.get(Reference::HEADER).filter(|_| entry.record.value.is_empty()) else {
        return Ok(entry.record.value.clone());
    };
    let reference = Reference::from_header(header).context("its reference cannot be read")?;
    let inbox = BlobStore::open(&places::blob_url(config)?)?.inbox();
    let fetched = inbox.fetch(&reference, config.settings.prepare.limits.max_bytes).await;
    fetched.context("the record refers to a file of the inbox")
}

fn tell(entry: &Entry, others: &[String]) -> Result<()> {
    let letter = &entry.letter;
    let (own, added) = split(&entry.record.headers);
    let written =
        added.text(Header::SENT).map_or(String::new(), |time| format!(", written {time}"));
    let again = if entry.is_redriven { "yes" } else { "no" };
    for (name, value) in [
        ("dead letter", entry.id()),
        ("given up", format!("{} by {}, tries: {}", letter.time, letter.stage, letter.attempts)),
        ("class", letter.class.clone()),
        ("why", letter.message.clone()),
        ("case", entry.case.to_string()),
        (
            "came from",
            format!(
                "{}, partition {}, offset {}{written}",
                letter.topic, letter.partition, letter.offset
            ),
        ),
        ("sent again", again.to_owned()),
        ("size", output::bytes(entry.record.value.len() as u64)),
    ] {
        output::line(format_args!("{name:<12} {value}"))?;
    }
    output::line(format_args!(
        "{:<12} {}",
        "key",
        entry.record.key.as_ref().map_or("none".into(), readable)
    ))?;
    for (name, value) in own.iter() {
        output::line(format_args!(
            "{:<12} {} = {}",
            "header",
            name.escape_debug(),
            readable(value)
        ))?;
    }
    if !others.is_empty() {
        output::line(format_args!("{:<12} {}", "others", others.join(", ")))?;
    }
    output::note(format_args!("key and headers are the sender's own; they may name a patient"));
    Ok(())
}

fn tell_json(entry: &Entry, others: &[String]) -> Result<()> {
    let (own, added) = split(&entry.record.headers);
    let headers: Vec<_> = own.iter().map(|(name, value)| json!([name, readable(value)])).collect();
    let told = json!({
        "id": entry.id(),
        "case": entry.case,
        "dead_letter": entry.letter,
        "written": added.text(Header::SENT),
        "redriven": entry.is_redriven,
        "bytes": entry.record.value.len(),
        "key": entry.record.key.as_ref().map(readable),
        "headers": headers,
        "others": others,
    });
    output::line(format_args!("{told:#}"))
}

/// Text that a terminal can be trusted with; else hexadecimal digits.
fn readable(value: &Bytes) -> String {
    let text = std::str::from_utf8(value).map_or_else(
        |_| {
            let digits = value.iter().take(SHOWN).map(|byte| format!("{byte:02x}"));
            format!("0x{}", digits.collect::<String>())
        },
        |text| text.escape_debug().to_string(),
    );
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => {
            format!("{}… ({} bytes)", text.get(..end).unwrap_or_default(), value.len())
        }
        None => text,
    }
}

/// Writes a new file that nobody else can read.
fn save(file: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        open.write_all(bytes)?;
        open.sync_all()
    };
    write().with_context(|| format!("--save {}: the file cannot be written", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sender_wrote_moves_no_terminal() {
        assert_eq!(readable(&Bytes::from_static(b"a\x1b[2Jb")), "a\\u{1b}[2Jb");
        assert_eq!(readable(&Bytes::from_static(&[0xff, 1])), "0xff01");
        let long = readable(&Bytes::from("é".repeat(500)));
        assert!(long.ends_with("… (1000 bytes)") && long.chars().count() < 330, "{long}");
    }

    #[test]
    fn a_file_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("film.dcm");
        save(&file, b"film").unwrap();
        assert!(save(&file, b"another").unwrap_err().to_string().contains("film.dcm"));
        assert_eq!(std::fs::read(&file).unwrap(), b"film");
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
