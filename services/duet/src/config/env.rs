//! `DUET_<SECTION>_<KEY>` for every key, and two short names.

use super::{
    ConfigError, Fault, Settings, Shape, file::unknown, get, set, shape::Kind, shape::nearest_of,
};

const PREFIX: &str = "DUET_";

/// Short names for what is set most often.
pub(super) const SHORT: [(&str, &str); 2] =
    [("DUET_KAFKA", "kafka.bootstrap"), ("DUET_MODELS", "models.dir")];

/// Variables that are no configuration: other programs of this project read them.
const OTHERS: [&str; 7] = [
    "DUET_CONFIG",
    "DUET_CACHE",
    "DUET_SAMPLES",
    "DUET_UPDATE",
    "DUET_REMOVE",
    "DUET_CI_TARGET",
    crate::places::BACKEND_KEY,
];
/// The same for whole families.
const OTHER_FAMILIES: [&str; 1] = ["DUET_TEST_"];

/// The process's variables that begin with `DUET_`; an empty one counts as not set.
pub(super) fn of_process() -> Result<Vec<(String, String)>, ConfigError> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let Some(value) = value.to_str() else {
            return Err(Fault::new(name, "its value is not UTF-8 text").into());
        };
        if !value.is_empty() {
            variables.push((name.to_owned(), value.to_owned()));
        }
    }
    variables.sort();
    Ok(variables)
}

/// The variable of `key`.
pub(super) fn name_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "_"))
}

/// Each key that a variable sets, with its typed value and the variable's name.
pub(super) fn values(
    variables: &[(String, String)],
    shape: &Shape,
) -> Result<Vec<(String, toml::Value, String)>, ConfigError> {
    let mut found: Vec<(String, toml::Value, String)> = Vec::new();
    let mut faults = Vec::new();
    for (name, text) in variables {
        if is_another(name, text) {
            continue;
        }
        let short = SHORT.iter().find(|(short, _)| short == name).map(|(_, key)| *key);
        let long = || shape.keys().map(|(key, _)| key).find(|key| name_of(key) == *name);
        let Some(key) = short.or_else(long) else {
            faults.push(Fault::new("", unknown(name, nearest(name, shape).as_deref())));
            continue;
        };
        if let Some((_, _, other)) = found.iter().find(|(own, _, _)| own == key) {
            faults
                .push(Fault::new(name, format!("sets {key}, as {other} does: unset one of them")));
            continue;
        }
        match typed(key, text, shape) {
            Ok(value) => found.push((key.to_owned(), value, name.clone())),
            Err(what) => faults.push(Fault::new(name, what)),
        }
    }
    if faults.is_empty() { Ok(found) } else { Err(ConfigError(faults)) }
}

fn nearest(name: &str, shape: &Shape) -> Option<String> {
    let long = shape.keys().map(|(key, _)| name_of(key));
    let names = long.chain(SHORT.iter().map(|(short, _)| (*short).to_owned()));
    let without = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    nearest_of(&without(name), names.map(|full| (without(&full), full)))
}

fn is_another(name: &str, value: &str) -> bool {
    OTHERS.contains(&name)
        || OTHER_FAMILIES.iter().any(|family| name.starts_with(family))
        || is_service_link(name, value)
}

/// Kubernetes tells every container of every Service that way, and one may be called `duet-…`.
fn is_service_link(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.contains("_TCP_")
        || name.contains("_UDP_")
        || value.starts_with("tcp://")
        || value.starts_with("udp://")
}

/// `text` as `key` takes it.
fn typed(key: &str, text: &str, shape: &Shape) -> Result<toml::Value, String> {
    let expected = |what: &str| format!("{text:?} is not {what}");
    let value = match shape.kind(key) {
        Some(Kind::Bool) => {
            toml::Value::Boolean(text.parse().map_err(|_| expected("true or false"))?)
        }
        Some(Kind::Integer) => {
            let digits = text.replace('_', "");
            toml::Value::Integer(digits.parse().map_err(|_| expected("a whole number"))?)
        }
        Some(Kind::Float) => toml::Value::Float(text.parse().map_err(|_| expected("a number"))?),
        Some(Kind::Word(words)) if !words.contains(&text) => {
            return Err(expected(&format!("one of {}", words.join(", "))));
        }
        Some(Kind::Table | Kind::List) => {
            let parsed: Result<toml::Table, _> = toml::from_str(&format!("value = {text}"));
            let value = parsed.ok().and_then(|mut table| table.remove("value"));
            // Not quoted: it may hold a password.
            value.ok_or_else(|| {
                "its value is not TOML, for instance { \"client.rack\" = \"a\" }".to_owned()
            })?
        }
        _ => toml::Value::String(text.to_owned()),
    };
    // By itself, so that what the type refuses is refused under the variable's name.
    let mut table = toml::Table::new();
    set(&mut table, key, value.clone());
    let read: Result<Settings, toml::de::Error> = table.clone().try_into();
    read.map_err(|error| error.message().to_owned())?;
    Ok(get(&table, key).cloned().unwrap_or(value))
}
