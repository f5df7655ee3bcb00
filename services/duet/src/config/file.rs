//! The TOML file: every key known, each with its line.

use std::{borrow::Cow, path::Path};

use toml::de::{DeTable, DeValue};

use super::{ConfigError, Fault, Settings, Shape, shape::Kind};

/// The file's content, and the line of each key in it.
pub(super) fn read(
    path: &Path,
    shape: &Shape,
) -> Result<(toml::Table, Vec<(String, usize)>), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Fault::new(path.display().to_string(), format!("cannot be read: {error}"))
    })?;
    parse(&text, path, shape)
}

fn parse(
    text: &str,
    path: &Path,
    shape: &Shape,
) -> Result<(toml::Table, Vec<(String, usize)>), ConfigError> {
    let refuse = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        Fault::new(format!("{}:{line}", path.display()), error.message().to_owned())
    };
    let tree = DeTable::parse(text).map_err(refuse)?;
    let mut walk = Walk { text, path, shape, lines: Vec::new(), faults: Vec::new() };
    walk.table("", tree.get_ref());
    if !walk.faults.is_empty() {
        return Err(ConfigError(walk.faults));
    }
    // Types next, while the place in the text is still known.
    toml::from_str::<Settings>(text).map_err(refuse)?;
    let table = toml::from_str(text).map_err(refuse)?;
    Ok((table, walk.lines))
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

struct Walk<'a> {
    text: &'a str,
    path: &'a Path,
    shape: &'a Shape,
    lines: Vec<(String, usize)>,
    faults: Vec<Fault>,
}

impl Walk<'_> {
    fn table(&mut self, outer: &str, table: &DeTable<'_>) {
        for (name, value) in table.iter() {
            let key = if outer.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{outer}.{}", name.get_ref())
            };
            let line = line_of(self.text, name.span().start);
            let inner = match value.get_ref() {
                DeValue::Table(inner) => Some(inner),
                _ => None,
            };
            match (self.shape.kind(&key), inner) {
                (Some(Kind::Table), _) | (Some(_), None) => self.lines.push((key, line)),
                (None, Some(inner)) if self.shape.is_section(&key) => self.table(&key, inner),
                (None, None) if self.shape.is_section(&key) => {
                    self.fault(line, format!("{key} is a section: write [{key}] on a line of its own, and its keys below"));
                }
                (Some(_), Some(_)) => self.fault(line, format!("{key} is a key and no section")),
                (None, _) => {
                    let what = unknown(&key, self.shape.nearest(&key).as_deref());
                    self.fault(line, what);
                }
            }
        }
    }

    fn fault(&mut self, line: usize, what: String) {
        self.faults.push(Fault::new(format!("{}:{line}", self.path.display()), what));
    }
}

/// Refuses `name`, with the nearest valid one.
pub(super) fn unknown(name: &str, nearest: Option<&str>) -> String {
    let hint: Cow<'_, str> = match nearest {
        Some(nearest) => format!("did you mean {nearest}?").into(),
        None => "`duet config show` prints every key that there is".into(),
    };
    format!("{name} is not known; {hint}")
}
