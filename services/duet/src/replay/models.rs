//! The models and thresholds that a replay runs with.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, bail};
use duet_case::{ModelRef, Probability};
use duet_inference::{
    Accepts, BackendConfig, Classification, Classifier, InferenceError, Kind, Label, MANIFEST_FILE,
    Manifest, OperatingPoint, Registry, Served,
};
use duet_specialist::Thorax;
use duet_triage::Generalist;
use image::GrayImage;
use serde::{Deserialize, Serialize};

use crate::{
    Usage, cli,
    config::{Config, Settings},
    places,
};

/// What a replay runs with.
pub(super) struct Lineup {
    pub(super) generalist: Generalist,
    pub(super) classifiers: Vec<Arc<dyn Classifier>>,
    pub(super) thoraxes: Vec<Thorax>,
    pub(super) sections: Sections,
    /// Who stands in for whom: by its own name, the other's.
    pub(super) roles: BTreeMap<String, String>,
    /// What is another than in production, in words.
    pub(super) told: Vec<String>,
}

/// The sections of the configuration that a replay may set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sections {
    pub(super) triage: duet_triage::Config,
    pub(super) specialist: duet_specialist::Config,
}

impl Sections {
    /// Those of `settings`, with what `set` says instead: `triage.clear_below=0.05`.
    fn of(settings: &Settings, set: &[String]) -> Result<Self, Usage> {
        let (triage, specialist) = (settings.triage.clone(), settings.specialist.clone());
        let mut sections = Self { triage, specialist };
        for text in set {
            sections =
                sections.with(text).map_err(|why| Usage(format!("--set {text:?}: {why}")))?;
        }
        Ok(sections)
    }

    fn with(&self, text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or("write KEY=VALUE, for instance triage.clear_below=0.05")?;
        let (section, key) = key
            .split_once('.')
            .filter(|(section, _)| ["triage", "specialist"].contains(section))
            .ok_or("the keys are those of triage and specialist")?;
        // A text may go without its quotes.
        let table = format!("value = {value}").parse::<toml::Table>();
        let value = table
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| toml::Value::String(value.to_owned()));
        let mut all = toml::Table::try_from(self).map_err(|error| error.to_string())?;
        if let Some(toml::Value::Table(section)) = all.get_mut(section) {
            section.insert(key.to_owned(), value);
        }
        let sections: Self =
            all.try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
        sections.triage.validate().map_err(|error| error.to_string())?;
        Ok(sections)
    }
}

impl Lineup {
    pub(super) async fn of(args: &cli::Replay, config: &Config) -> Result<Self> {
        let dir = places::models(config)?;
        let mut sections = Sections::of(&config.settings, &args.set)?;
        let thresholds = thresholds(&args.threshold)?;
        let mut told: Vec<String> =
            args.set.iter().map(|text| text.replacen('=', " = ", 1)).collect();
        let (mut replaced, mut roles) = (Vec::new(), BTreeMap::new());
        for text in &args.model {
            let (name, path) = text.split_once('=').ok_or_else(|| {
                Usage(format!(
                    "--model {text:?}: write NAME=PATH, for instance cxr-findings=./candidate"
                ))
            })?;
            let path = PathBuf::from(path);
            let manifest = Manifest::read(&path.join(MANIFEST_FILE))
                .with_context(|| format!("--model {text:?}"))?;
            let own = dir.join(name).join(MANIFEST_FILE);
            if own.is_file() {
                let kind = Manifest::read(&own)?.kind.name();
                if kind != manifest.kind.name() {
                    bail!(Usage(format!(
                        "--model {text:?}: {name} is a {kind} model and {} a {} model: one cannot stand in for the other",
                        manifest.name,
                        manifest.kind.name()
                    )));
                }
            } else {
                told.push(format!(
                    "{name} is not in {}: {} is one more",
                    dir.display(),
                    manifest.name
                ));
            }
            if matches!(manifest.kind, Kind::VisionLanguage(_))
                && sections.triage.backend.url.is_some()
            {
                // The one that stands in is asked, not the server.
                sections.triage.backend = BackendConfig::default();
                sections.triage.model = name.to_owned();
            }
            if sections.triage.model == name {
                sections.triage.model.clone_from(&manifest.name);
            }
            for model in sections.specialist.models.iter_mut().filter(|model| *model == name) {
                model.clone_from(&manifest.name);
            }
            told.push(format!(
                "{name}: {} {} ({})",
                manifest.name, manifest.version, manifest.sha256
            ));
            roles.insert(manifest.name.clone(), name.to_owned());
            replaced.push((name.to_owned(), path));
        }
        let models = Registry::load_replaced(&dir, &replaced, |_| true)?;
        let mut names: Vec<_> = models.list().map(|own| own.manifest.name.as_str()).collect();
        names.sort_unstable();
        if let Some([twice, _]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!(Usage(format!(
                "two models are called {twice}: replace that one by --model {twice}=PATH"
            )));
        }
        let served = Served::open(&sections.triage.backend, places::backend_key(config)?)?;
        let generalist = match served {
            Some(served) => {
                served.probe().await?;
                Generalist::Served(Arc::new(served))
            }
            None => Generalist::Embedded(models.vision_language(&sections.triage.model)?),
        };
        let thoraxes = models.segmenters().into_iter().filter_map(Thorax::of).collect();
        let mut classifiers = models.classifiers();
        for threshold in thresholds {
            told.push(format!("{} at {}", threshold.name(), threshold.value.value()));
            threshold.apply(&mut classifiers, &roles)?;
        }
        Ok(Self { generalist, classifiers, thoraxes, sections, roles, told })
    }
}

/// Another operating point.
struct Threshold {
    model: Option<String>,
    label: String,
    value: Probability,
}

fn thresholds(texts: &[String]) -> Result<Vec<Threshold>, Usage> {
    let one = |text: &String| {
        let wrong = || {
            Usage(format!(
                "--threshold {text:?}: write LABEL=VALUE or MODEL:LABEL=VALUE, the value from 0 to 1, for instance Effusion=0.4"
            ))
        };
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        let value = value.parse().ok().and_then(|value| Probability::new(value).ok());
        let value = value.ok_or_else(wrong)?;
        let (model, label) = match name.split_once(':') {
            Some((model, label)) => (Some(model.to_owned()), label.to_owned()),
            None => (None, name.to_owned()),
        };
        Ok(Threshold { model, label, value })
    };
    texts.iter().map(one).collect()
}

impl Threshold {
    fn name(&self) -> String {
        match &self.model {
            Some(model) => format!("{model}:{}", self.label),
            None => self.label.clone(),
        }
    }

    fn apply(
        &self,
        classifiers: &mut [Arc<dyn Classifier>],
        roles: &BTreeMap<String, String>,
    ) -> Result<(), Usage> {
        let mut applied = false;
        for classifier in classifiers.iter_mut() {
            let name = &classifier.model().name;
            let is_meant = self
                .model
                .as_ref()
                .is_none_or(|model| model == name || roles.get(name) == Some(model));
            let has = |label: &Label| label.name == self.label && label.operating_point.is_some();
            if is_meant && classifier.labels().iter().any(has) {
                let mut labels = classifier.labels().to_vec();
                for label in labels.iter_mut().filter(|label| has(label)) {
                    // What was measured at the other point does not hold at this one.
                    label.operating_point = Some(OperatingPoint {
                        threshold: self.value,
                        source: Some("a replay's --threshold".to_owned()),
                        sensitivity: None,
                        specificity: None,
                        positives: None,
                        negatives: None,
                    });
                }
                *classifier = Arc::new(Moved { inner: Arc::clone(classifier), labels });
                applied = true;
            }
        }
        if applied {
            return Ok(());
        }
        let known = classifiers.iter().flat_map(|own| {
            own.labels().iter().map(|label| format!("{}:{}", own.model().name, label.name))
        });
        let known = known.collect::<Vec<_>>().join(", ");
        Err(Usage(format!(
            "--threshold {}: no specialist has that label; there are {known}",
            self.name()
        )))
    }
}

/// A specialist with other operating points.
struct Moved {
    inner: Arc<dyn Classifier>,
    labels: Vec<Label>,
}

impl Classifier for Moved {
    fn model(&self) -> &ModelRef {
        self.inner.model()
    }

    fn accepts(&self) -> &Accepts {
        self.inner.accepts()
    }

    fn labels(&self) -> &[Label] {
        &self.labels
    }

    fn calibrated(&self) -> bool {
        self.inner.calibrated()
    }

    fn classify(&self, picture: &GrayImage) -> Result<Classification, InferenceError> {
        self.inner.classify(picture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_set_by_name_and_wrong_ones_refused() {
        let set = |text: &str| Sections::of(&Settings::default(), &[text.to_owned()]);
        assert_eq!(set("triage.clear_below=0.05").unwrap().triage.clear_below, Some(0.05));
        assert_eq!(set("triage.model=other").unwrap().triage.model, "other");
        let models = set("specialist.models=[\"a\"]").unwrap().specialist.models;
        assert_eq!(models, ["a"]);
        for (text, says) in [
            ("triage.clear_below", "KEY=VALUE"),
            ("kafka.bootstrap=x:1", "triage and specialist"),
            ("triage.clear_belw=0.05", "clear_belw"),
            ("triage.clear_below=1.5", "from 0 to 1"),
            ("triage.clear_below=much", "invalid type"),
        ] {
            let message = set(text).unwrap_err().to_string();
            assert!(message.contains(text) && message.contains(says), "{message}");
        }
    }

    #[test]
    fn a_threshold_is_a_label_and_a_share() {
        let read = |text: &str| thresholds(&[text.to_owned()]).map(|mut own| own.remove(0));
        let own = read("cxr-findings:Effusion=0.4").unwrap();
        assert_eq!((own.model.as_deref(), own.label.as_str()), (Some("cxr-findings"), "Effusion"));
        for wrong in ["Effusion", "Effusion=", "Effusion=4", "Effusion=nan"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
