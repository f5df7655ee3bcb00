//! One configuration: a TOML file, overridden by `DUET_*` variables, overridden by flags.
//!
//! [`Settings`] is what the services are given. What may be set is not listed anywhere by hand: [`shape`] reads it off
//! the types, so that a new key of a service is at once a key of the file, a variable, and part of `config show`.

mod env;
mod file;
mod fits;
mod shape;
mod show;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub(crate) use shape::Shape;

/// Read where there is one and neither `--config` nor `DUET_CONFIG` names another.
const DEFAULT_FILE: &str = "duet.toml";

/// Everything that can be configured, a section a service or a part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) kafka: duet_transport::KafkaConfig,
    pub(crate) blob: Blob,
    pub(crate) http: duet_http::Config,
    pub(crate) log: Log,
    pub(crate) models: Models,
    pub(crate) runner: duet_stage::RunnerConfig,
    pub(crate) index: duet_stage::IndexConfig,
    pub(crate) gateway: duet_gateway::Config,
    pub(crate) prepare: duet_prepare::Config,
    pub(crate) triage: duet_triage::Config,
    pub(crate) specialist: duet_specialist::Config,
    pub(crate) publish: duet_publish::Config,
    pub(crate) review: duet_review::Config,
}

/// Where pictures are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Blob {
    /// `file:///folder`, `s3://bucket/prefix` or `memory:`; else a folder of the user's own state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    /// Milliseconds that one picture, or a part of a file, may take to be written or read.
    pub(crate) timeout_ms: u64,
}

impl Default for Blob {
    fn default() -> Self {
        let timeout_ms = u64::try_from(duet_blob::TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        Self { url: None, timeout_ms }
    }
}

/// What is written to standard error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub(crate) format: duet_telemetry::LogFormat,
    /// As `tracing_subscriber::EnvFilter` reads it; else Duet's own lines: `info` for services, `warn` for
    /// the other commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
}

/// Where the models are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Models {
    /// A folder with one folder a model; else `models` in the working directory, beside the binary, or where it was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Option<PathBuf>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Line of the file.
    File(usize),
    /// Name of the variable.
    Variable(String),
    /// The flag.
    Flag(&'static str),
}

/// A value given by a flag.
pub(crate) struct Flag {
    /// For instance `--kafka`.
    pub(crate) flag: &'static str,
    /// The key that it sets.
    pub(crate) key: &'static str,
    pub(crate) value: String,
}

/// What a configuration is made from.
#[derive(Default)]
pub(crate) struct Inputs {
    pub(crate) file: Option<PathBuf>,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) flags: Vec<Flag>,
}

/// A configuration that has been checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) settings: Settings,
    /// `http.listen`, read.
    pub(crate) listen: Option<SocketAddr>,
    /// The file, where one was read.
    pub(crate) file: Option<PathBuf>,
    origins: BTreeMap<String, Origin>,
}

/// What is wrong with the configuration, every fault on its own line.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:\n{}", .0.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n"))]
pub(crate) struct ConfigError(pub(crate) Vec<Fault>);

/// One fault.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where it stands: `duet.toml:3`, `DUET_KAFKA`, `--listen`.
    pub(crate) place: String,
    pub(crate) what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.as_str() {
            "" => f.write_str(&self.what),
            place => write!(f, "{place}: {}", self.what),
        }
    }
}

impl Fault {
    pub(crate) fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

impl From<Fault> for ConfigError {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl Inputs {
    /// The file that `--config` or `DUET_CONFIG` names, else `duet.toml` where there is one, and the process's variables.
    pub(crate) fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Result<Self, ConfigError> {
        let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
        Ok(Self { file: file.or_else(default), variables: env::of_process()?, flags })
    }
}

impl Config {
    /// Reads, merges and checks.
    pub(crate) fn load(inputs: Inputs) -> Result<Self, ConfigError> {
        let shape = Shape::of_settings();
        let mut merged = toml::Table::new();
        let mut origins = BTreeMap::new();
        if let Some(path) = &inputs.file {
            let (table, lines) = file::read(path, &shape)?;
            merged = table;
            origins.extend(lines.into_iter().map(|(key, line)| (key, Origin::File(line))));
        }
        for (key, value, name) in env::values(&inputs.variables, &shape)? {
            set(&mut merged, &key, value);
            origins.insert(key, Origin::Variable(name));
        }
        for Flag { flag, key, value } in inputs.flags {
            set(&mut merged, key, toml::Value::String(value));
            origins.insert(key.to_owned(), Origin::Flag(flag));
        }
        let settings: Settings = merged
            .try_into()
            .map_err(|error: toml::de::Error| Fault::new("", error.message().to_owned()))?;
        let mut config = Self { settings, listen: None, file: inputs.file, origins };
        config.check()?;
        Ok(config)
    }

    /// Whether a cluster was named anywhere, so that the embedded broker is not meant.
    pub(crate) fn names_kafka(&self) -> bool {
        self.origins.contains_key("kafka.bootstrap")
    }

    /// The value's place, in words.
    fn place_of(&self, key: &str) -> String {
        match self.origins.get(key) {
            None => "default".to_owned(),
            Some(Origin::File(line)) => {
                let path = self.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
                format!("{}:{line}", path.display())
            }
            Some(Origin::Variable(name)) => name.clone(),
            Some(Origin::Flag(flag)) => (*flag).to_owned(),
        }
    }

    fn check(&mut self) -> Result<(), ConfigError> {
        let settings = &self.settings;
        let checks: [Result<(), String>; 8] = [
            said(settings.kafka.validate()),
            said(settings.http.validate()),
            said(settings.runner.validate()),
            said(settings.gateway.validate()),
            said(settings.prepare.validate()),
            said(settings.triage.validate()),
            said(settings.review.validate()),
            fits::check(settings),
        ];
        let mut faults: Vec<Fault> = checks
            .into_iter()
            .filter_map(Result::err)
            .map(|what| Fault::new(self.place_of(key_in(&what)), what))
            .collect();
        if let Some(text) = &settings.http.listen {
            match text.parse() {
                Ok(address) => self.listen = Some(address),
                Err(_) => faults.push(Fault::new(
                    self.place_of("http.listen"),
                    format!("http.listen is {text:?}, but it must be an address and a port, for instance 127.0.0.1:8080"),
                )),
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(ConfigError(faults)) }
    }
}

fn said<E: std::error::Error>(result: Result<(), E>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

/// The key that a section's own message begins with or names: `gateway.max_files is 0, but …`.
fn key_in(message: &str) -> &str {
    let is_key = |word: &&str| {
        word.contains('.') && word.chars().all(|c| c.is_ascii_lowercase() || c == '.' || c == '_')
    };
    message.split([' ', ':', ',']).find(is_key).unwrap_or("")
}

/// Sets `a.b.c` in nested tables.
fn set(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| toml::Table::new().into());
            if let toml::Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

/// The value of `a.b.c` in nested tables.
fn get<'a>(table: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, rest)) => get(table.get(section)?.as_table()?, rest),
    }
}

#[cfg(test)]
mod tests;
