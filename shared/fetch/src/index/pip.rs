//! How pip is configured here: variables, then its configuration files.

use std::{
    collections::HashMap,
    env,
    path::{Path, PathBuf},
};

/// Larger than any configuration of pip.
const MAX_BYTES: u64 = 1 << 20;

/// What of pip's configuration says where packages are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) index_url: Option<String>,
    pub(super) extra_index_urls: Vec<String>,
    pub(super) cert: Option<PathBuf>,
}

impl Settings {
    pub(super) fn of_this_user() -> Self {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let files = files(&variable);
        let texts = files.iter().filter_map(|file| read(file)).collect::<Vec<_>>();
        Self::of(&variable, &texts)
    }

    /// `texts` are those of the files, of which a later one goes before an earlier.
    fn of(variable: &dyn Fn(&str) -> Option<String>, texts: &[String]) -> Self {
        let mut keys = HashMap::new();
        for text in texts {
            // A command's own section goes before what holds for all.
            for section in ["global", "install", "download"] {
                keys.extend(section_of(text, section));
            }
        }
        let mut setting = |name: &str| {
            let own = variable(&format!("PIP_{}", name.to_ascii_uppercase().replace('-', "_")));
            own.or_else(|| keys.remove(name)).map(|value| value.trim().to_owned())
        };
        let extra = setting("extra-index-url").unwrap_or_default();
        Self {
            index_url: setting("index-url").filter(|url| !url.is_empty()),
            extra_index_urls: extra.split_whitespace().map(str::to_owned).collect(),
            cert: setting("cert").filter(|file| !file.is_empty()).map(PathBuf::from),
        }
    }
}

/// Where pip looks: the machine's, the user's, the virtual environment's, and the one that is named.
fn files(variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let named = variable("PIP_CONFIG_FILE").map(PathBuf::from);
    if named.as_deref() == Some(Path::new("/dev/null")) {
        return Vec::new();
    }
    let home = variable("HOME").map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| home.as_ref().map(|home| home.join(".config")));
    let mut files = vec![PathBuf::from("/etc/xdg/pip/pip.conf"), PathBuf::from("/etc/pip.conf")];
    files.extend(home.map(|home| home.join(".pip/pip.conf")));
    files.extend(config.map(|config| config.join("pip/pip.conf")));
    files.extend(variable("VIRTUAL_ENV").map(|venv| Path::new(&venv).join("pip.conf")));
    files.extend(named);
    files
}

fn read(file: &Path) -> Option<String> {
    let small = std::fs::metadata(file).ok()?.len() <= MAX_BYTES;
    if small { std::fs::read_to_string(file).ok() } else { None }
}

/// The keys of one section of an INI file; a value may go on in indented lines.
fn section_of(text: &str, wanted: &str) -> HashMap<String, String> {
    let mut keys = HashMap::<String, String>::new();
    let (mut within, mut last) = (false, None);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            within = section.trim() == wanted;
            last = None;
        } else if within && line.starts_with([' ', '\t']) && last.is_some() {
            if let Some(value) = last.as_ref().and_then(|key| keys.get_mut(key)) {
                value.push(' ');
                value.push_str(trimmed);
            }
        } else if within && let Some((key, value)) = trimmed.split_once(['=', ':']) {
            let key = key.trim().to_ascii_lowercase().replace('_', "-");
            keys.insert(key.clone(), value.trim().to_owned());
            last = Some(key);
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], texts: &[&str]) -> Settings {
        let variable = |name: &str| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::of(&variable, &texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn variables_go_before_files_and_later_files_before_earlier() {
        let machine = "[global]\nindex-url = https://machine/simple\ncert: /etc/ca.pem\n";
        let user = "# ours\n[global]\nindex_url=https://user/simple # not a comment\n[freeze]\nindex-url = x\n";
        assert_eq!(settings(&[], &[]), Settings::default());
        let own = settings(&[], &[machine]);
        assert_eq!(own.index_url.as_deref(), Some("https://machine/simple"));
        assert_eq!(own.cert.as_deref(), Some(Path::new("/etc/ca.pem")));
        let own = settings(&[], &[machine, user]);
        assert_eq!(own.index_url.as_deref(), Some("https://user/simple # not a comment"));
        let own = settings(&[("PIP_INDEX_URL", "https://variable/simple ")], &[machine, user]);
        assert_eq!(own.index_url.as_deref(), Some("https://variable/simple"));
    }

    #[test]
    fn a_commands_own_section_goes_before_the_global_one_and_values_go_on() {
        let text = "[download]\nindex-url = https://own/simple\n[global]\nindex-url = https://all/simple\nextra-index-url =\n    https://a/simple\n\n    https://b/simple\ntimeout = 60\n";
        let own = settings(&[], &[text]);
        assert_eq!(own.index_url.as_deref(), Some("https://own/simple"));
        assert_eq!(own.extra_index_urls, ["https://a/simple", "https://b/simple"]);
    }

    #[test]
    fn no_file_is_read_where_pip_reads_none() {
        let variable = |value: &'static str| {
            move |name: &str| (name == "PIP_CONFIG_FILE").then(|| value.to_owned())
        };
        assert!(files(&variable("/dev/null")).is_empty());
        assert_eq!(files(&variable("/a/pip.ini")).last(), Some(&PathBuf::from("/a/pip.ini")));
    }
}
