//! What the generalist was asked, out of its manifest, where that is the one that spoke.

use std::collections::BTreeMap;

use duet_case::{Case, ModelRef, Triage};
use duet_inference::{Kind, MANIFEST_FILE, Manifest, Question};
use serde_json::{Value, json};

use crate::{config::Config, places};

/// What there is to be said of the questions.
pub(super) struct Prompts {
    /// Why the prompts are not known, or are not certain to be the ones that were asked.
    pub(super) caveat: Option<String>,
    /// The meaning and the texts of each answer, by question and answer.
    answers: BTreeMap<(String, String), (String, Vec<String>)>,
    /// Answers to `kind` that Duet reads.
    in_scope: Vec<String>,
}

impl Prompts {
    /// Of the model that triaged `case`; `None` where none did.
    pub(super) fn of(case: &Case, config: &Config) -> Option<Self> {
        let spoke = &case.triage.as_ref()?.model;
        Some(Self::read(spoke, config).unwrap_or_else(|why| Self {
            caveat: Some(format!("the texts of its questions are not known here: {why}")),
            answers: BTreeMap::new(),
            in_scope: Vec::new(),
        }))
    }

    fn read(spoke: &ModelRef, config: &Config) -> Result<Self, String> {
        let dir = places::models(config).map_err(|error| error.to_string())?;
        // A name out of a record is not a path.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
        if !spoke.name.chars().all(is_plain) || spoke.name.starts_with('.') {
            return Err(format!("{:?} is no folder's name", spoke.name));
        }
        let manifest = Manifest::read(&dir.join(&spoke.name).join(MANIFEST_FILE))
            .map_err(|error| error.to_string())?;
        let Kind::VisionLanguage(spec) = &manifest.kind else {
            return Err(format!("{} in {} is no generalist", spoke.name, dir.display()));
        };
        if manifest.sha256 != spoke.sha256 {
            return Err(format!(
                "{} {} in {} has other weights ({}) than the model that spoke: name its folder by --models",
                manifest.name,
                manifest.version,
                dir.display(),
                manifest.sha256
            ));
        }
        let caveat = (manifest.version != spoke.version).then(|| {
            format!(
                "the folder {} has the same weights as version {}, whose questions may have been worded otherwise",
                manifest.version, spoke.version
            )
        });
        let (mut answers, mut in_scope) = (BTreeMap::new(), Vec::new());
        for asked in &spec.questions {
            for answer in &asked.answers {
                if answer.in_scope {
                    in_scope.push(answer.id.clone());
                }
                answers.insert(
                    (Question::name(asked.question).to_owned(), answer.id.clone()),
                    (answer.meaning.clone(), answer.prompts.clone()),
                );
            }
        }
        Ok(Self { caveat, answers, in_scope })
    }

    /// What the kinds in scope have together, where it is known which those are.
    pub(super) fn in_scope(&self, triage: &Triage) -> Option<f64> {
        let kinds = triage.scores.iter().filter(|own| own.question == "kind");
        let ours = kinds.filter(|own| self.in_scope.contains(&own.answer));
        (!self.in_scope.is_empty()).then(|| ours.map(|own| own.probability.value()).sum())
    }

    /// The texts of an answer; none where they are not known.
    pub(super) fn texts(&self, question: &str, answer: &str) -> &[String] {
        let key = (question.to_owned(), answer.to_owned());
        self.answers.get(&key).map_or(&[], |(_, texts)| texts.as_slice())
    }

    pub(super) fn as_json(&self) -> Value {
        let answers: Vec<_> = self
            .answers
            .iter()
            .map(|((question, answer), (meaning, texts))| {
                json!({ "question": question, "answer": answer, "meaning": meaning, "prompts": texts })
            })
            .collect();
        json!({ "caveat": self.caveat, "answers": answers })
    }
}
