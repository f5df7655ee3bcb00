//! What is written for people and for pipes.

use std::{
    fmt::Arguments,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

/// Columns of a table that goes into a file or a pipe.
const WIDTH: u16 = 160;

/// One line to standard output.
pub(crate) fn line(line: Arguments<'_>) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}

/// Text as it is to standard output.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// One line to standard error, which may be closed.
pub(crate) fn note(line: Arguments<'_>) {
    let _nobody_listens = writeln!(io::stderr().lock(), "{line}");
}

/// An error with its causes, and nothing said twice.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut said = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        if !said.contains(&words) {
            said.push_str(if said.is_empty() { "" } else { ": " });
            said.push_str(&words);
        }
    }
    note(format_args!("duet: {said}"));
}

/// Whether the reader of our output went away.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// An empty table with that header, at most as wide as the terminal.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header.iter().copied());
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if !io::stdout().is_terminal() {
        table.set_width(WIDTH);
    }
    table
}

/// Bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}
