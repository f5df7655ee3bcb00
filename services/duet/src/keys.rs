//! `duet keys`: the file of the keys that identifiers are sealed with.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use duet_seal::KeyFile;

use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a file with a new key, readable by you alone
    #[command(after_help = "Example:\n  duet keys new sealing.keys")]
    New {
        /// The file, which must not be there yet
        file: PathBuf,
    },
    /// Put a new key before those of a file: it seals from the next start of prepare on, the others go on opening
    #[command(
        after_help = "Example:\n  duet keys rotate sealing.keys    (then give the file to publish, then to prepare, and restart prepare)"
    )]
    Rotate {
        /// The file
        file: PathBuf,
    },
    /// Print the ids of a file's keys, and which of them seals; never a key
    #[command(after_help = "Example:\n  duet keys list sealing.keys")]
    List {
        /// The file
        file: PathBuf,
    },
}

pub(crate) fn run(command: &Keys) -> Result<()> {
    let (keys, next) = match command {
        Keys::New { file } => (
            KeyFile::create(file)?,
            "give the same file to prepare (prepare.sealing_key_file) and to publish (publish.sealing_key_file), and to nobody else",
        ),
        Keys::Rotate { file } => (
            KeyFile::rotate(file)?,
            "give the file to publish, which reads it again by itself, then to prepare, and restart prepare; remove an old key's line once nothing that it sealed is wanted",
        ),
        Keys::List { file } => (KeyFile::load(file)?, ""),
    };
    for (at, id) in keys.ids().into_iter().enumerate() {
        let role = if at == 0 { "seals and opens" } else { "opens" };
        output::line(format_args!("{id}  {role}"))?;
    }
    if !next.is_empty() {
        output::note(format_args!("Next: {next}."));
    }
    Ok(())
}
