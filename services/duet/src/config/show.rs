//! The effective configuration as TOML, each value with where it comes from.

use std::fmt::Write as _;

use super::{Config, Settings, Shape, get};

/// Further settings of the Kafka client whose values are nobody's business.
const SECRETS: [&str; 3] = ["password", "secret", "token"];

impl Config {
    /// TOML that reads back to the same settings; secrets are withheld.
    pub(crate) fn show(&self) -> Result<String, toml::ser::Error> {
        let mut settings = self.settings.clone();
        withhold(&mut settings);
        let values = toml::Table::try_from(&settings)?;
        let shape = Shape::of_settings();
        let section_of =
            |key: &str| key.rsplit_once('.').map_or("", |(section, _)| section).to_owned();
        let mut text = String::new();
        for section in shape.sections() {
            let gap = if text.is_empty() { "" } else { "\n" };
            let _infallible = writeln!(text, "{gap}[{section}]");
            for (key, _) in shape.keys().filter(|(key, _)| section_of(key) == section) {
                let name = key.rsplit('.').next().unwrap_or(key);
                let line = match get(&values, key) {
                    Some(value) => format!("{name} = {value}"),
                    None => format!("# {name} is not set"),
                };
                let _infallible = writeln!(text, "{line:<44} # {}", self.place_of(key));
            }
        }
        Ok(text)
    }
}

fn withhold(settings: &mut Settings) {
    for (name, value) in &mut settings.kafka.properties {
        if SECRETS.iter().any(|word| name.contains(word)) {
            "(withheld)".clone_into(value);
        }
    }
}
