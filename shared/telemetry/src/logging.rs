//! Logs to standard error: readable lines, or one JSON object a line.

use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For log collectors: one object a line.
    Json,
}

/// A log filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{filter:?} is not a log filter ({source}); write for instance info, or warn,duet_stage=debug"
)]
pub struct UnknownFilter {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging. A second call in the same process changes nothing.
///
/// # Errors
///
/// Where `filter` is not one, in the syntax of `tracing_subscriber::EnvFilter`.
pub fn init(format: LogFormat, filter: &str) -> Result<(), UnknownFilter> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|source| UnknownFilter { filter: filter.to_owned(), source })?;
    let registry = tracing_subscriber::registry().with(parsed);
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    // A test may have set a subscriber already: its own stays.
    let _already_set = match format {
        LogFormat::Text => registry.with(lines.compact().with_target(false)).try_init(),
        LogFormat::Json => {
            registry.with(lines.json().flatten_event(true).with_current_span(true)).try_init()
        }
    };
    Ok(())
}
