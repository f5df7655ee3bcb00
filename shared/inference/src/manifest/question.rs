//! What a generalist is asked, and what is decided of its answers.

use std::collections::HashSet;

use duet_case::{Digest, Probability};

use super::{
    Calibration, ManifestError,
    check::Check,
    clearing::{MissRate, Shortfall, per_cent},
    raw::{RawDecision, RawMissRate, RawQuestion, RawText},
};

/// The kinds of image that may be cleared, where the manifest names none: those that the miss rate is measured on.
const CLEARABLE: &str = "chest-radiograph-frontal";

/// More images than anybody has read; what they promise is summed one by one.
const MAX_POSITIVES: u32 = 1_000_000;

/// A question that a generalist answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Question {
    /// What is it a picture of?
    Kind,
    /// Is it fit to read?
    Fitness,
    /// Does it look abnormal?
    Abnormal,
    /// How soon should a person look?
    Urgency,
}

impl Question {
    /// Every question.
    pub const ALL: [Self; 4] = [Self::Kind, Self::Fitness, Self::Abnormal, Self::Urgency];

    /// As it stands in manifests and Cases.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Fitness => "fitness",
            Self::Abnormal => "abnormal",
            Self::Urgency => "urgency",
        }
    }

    /// The answers that the decision is made of; a model must offer them.
    const fn needed_answers(self) -> &'static [&'static str] {
        match self {
            Self::Kind => &[],
            Self::Fitness => &["fit"],
            Self::Abnormal => &["normal", "abnormal"],
            Self::Urgency => &["routine", "urgent", "emergency"],
        }
    }

    /// Whether the answers must be those and no others.
    const fn is_closed(self) -> bool {
        matches!(self, Self::Abnormal | Self::Urgency)
    }

    /// Whether a model may leave it out.
    const fn is_optional(self) -> bool {
        matches!(self, Self::Urgency)
    }
}

/// One question: `p = softmax over answers of (scale * cos(image, answer) + bias)`.
#[derive(Debug, Clone, PartialEq)]
pub struct QuestionSpec {
    /// Which.
    pub question: Question,
    /// Sharpness.
    pub scale: f64,
    /// At least two.
    pub answers: Vec<Answer>,
}

/// One possible answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// For instance `chest-radiograph-frontal`.
    pub id: String,
    /// The same in words.
    pub meaning: String,
    /// Whether Duet reads such an image; only ever true in [`Question::Kind`].
    pub in_scope: bool,
    /// Added to the scaled cosine.
    pub bias: f64,
    /// The texts whose embeddings were averaged.
    pub prompts: Vec<String>,
}

/// Where the answers' embeddings are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextSpec {
    /// Numbers in an embedding.
    pub dim: usize,
    /// What embedded the prompts.
    pub tower: String,
    /// The text model of the same space, which embeds other prompts; absent: there are none but the manifest's.
    pub model: Option<String>,
    /// The file in the model's folder.
    pub embeddings: String,
    /// Its digest.
    pub sha256: Digest,
}

/// When an image is refused, flagged and cleared.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionRules {
    /// Where the kinds in scope have together less than this, the image is out of scope.
    pub scope_min: Probability,
    /// Where `fit` has less than this, the image is not fit to read.
    pub fitness_min: Probability,
    /// Where `abnormal` has less than this, the image may be cleared; absent: nothing is ever cleared.
    pub clear_below: Option<Probability>,
    /// Why there is no `clear_below` although a threshold was given: too little stands behind it.
    pub shortfall: Option<Shortfall>,
    /// The kinds of image that this was measured on; no other is ever cleared.
    pub clear_kinds: Vec<String>,
    /// How `clear_below` was chosen.
    pub miss_rate: Option<MissRate>,
}

pub(super) fn text(check: &Check<'_>, raw: &RawText) -> Result<TextSpec, ManifestError> {
    if !(1..=8192).contains(&raw.dim) {
        let problem = format!("is {}: an embedding has 1 to 8192 numbers", raw.dim);
        return Err(check.refuse("text.dim", problem));
    }
    if let Some(model) = &raw.model {
        check.name("text.model", model)?;
    }
    Ok(TextSpec {
        dim: raw.dim,
        tower: check.text("text.tower", &raw.tower)?,
        model: raw.model.clone(),
        embeddings: check.file_name("text.embeddings", &raw.embeddings)?,
        sha256: check.digest("text.sha256", &raw.sha256)?,
    })
}

impl DecisionRules {
    /// Below which probability of abnormal an image is cleared and with which promise, or why none ever is.
    pub fn clearing(&self) -> String {
        match (self.clear_below, self.miss_rate, self.shortfall) {
            (None, _, Some(shortfall)) => format!("clears nothing: {shortfall}"),
            (None, _, None) => "clears nothing: it has no calibration".to_owned(),
            (Some(below), Some(rate), _) => format!(
                "clears below {} % abnormal: with {} % confidence at most {} % of abnormal images ({} of {} measured)",
                per_cent(below),
                per_cent(rate.confidence),
                per_cent(rate.bound),
                rate.misses(),
                rate.positives
            ),
            (Some(below), None, _) => {
                format!("clears below {} % abnormal, without a measured miss rate", per_cent(below))
            }
        }
    }
}

pub(super) fn decision(
    check: &Check<'_>,
    raw: &RawDecision,
    calibration: Option<&Calibration>,
    in_scope: &[&str],
) -> Result<DecisionRules, ManifestError> {
    let miss_rate = raw.miss_rate.as_ref().map(|own| miss_rate(check, own)).transpose()?;
    let clear_below = check.maybe_probability("decision.clear_below", raw.clear_below)?;
    if clear_below.is_some() && miss_rate.is_none() {
        let problem = "has no decision.miss_rate: say how it was measured, or leave it out so that nothing is cleared";
        return Err(check.refuse("decision.clear_below", problem));
    }
    match (clear_below, calibration, miss_rate) {
        (Some(_), None, _) => {
            let problem = "has no [calibration]: say on which images it was measured (set, sha256, n, date), or leave it out so that nothing is cleared";
            return Err(check.refuse("decision.clear_below", problem));
        }
        (Some(_), Some(set), Some(rate)) if rate.positives > set.n => {
            let problem = format!("is {}, but calibration.n is {}", rate.positives, set.n);
            return Err(check.refuse("decision.miss_rate.positives", problem));
        }
        _ => {}
    }
    // Too few images are no mistake of the manifest's; the model answers, and may clear nothing.
    let shortfall = clear_below.and(miss_rate).and_then(|rate| rate.shortfall());
    let clear_below = clear_below.filter(|_| shortfall.is_none());
    let clear_kinds = raw.clear_kinds.clone().unwrap_or_else(|| vec![CLEARABLE.to_owned()]);
    if let (Some(unknown), Some(_)) =
        (clear_kinds.iter().find(|kind| !in_scope.contains(&kind.as_str())), &raw.clear_kinds)
    {
        let problem =
            format!("names {unknown:?}, which is none of the kinds in scope: {in_scope:?}");
        return Err(check.refuse("decision.clear_kinds", problem));
    }
    Ok(DecisionRules {
        scope_min: check.probability("decision.scope_min", raw.scope_min)?,
        fitness_min: check.probability("decision.fitness_min", raw.fitness_min)?,
        clear_below,
        shortfall,
        clear_kinds,
        miss_rate,
    })
}

fn miss_rate(check: &Check<'_>, raw: &RawMissRate) -> Result<MissRate, ManifestError> {
    // Of 0 and 1 nothing can be measured.
    let share = |key: &str, value: f64| match check.probability(key, value)? {
        share if share.value() > 0.0 && share.value() < 1.0 => Ok(share),
        _ => Err(check.refuse(key, format!("is {value}: it must be between 0 and 1"))),
    };
    if raw.positives > MAX_POSITIVES {
        let problem = format!("is {}: count {MAX_POSITIVES} images at most", raw.positives);
        return Err(check.refuse("decision.miss_rate.positives", problem));
    }
    Ok(MissRate {
        bound: share("decision.miss_rate.bound", raw.bound)?,
        confidence: share("decision.miss_rate.confidence", raw.confidence)?,
        positives: raw.positives,
        measured: check.probability("decision.miss_rate.measured", raw.measured)?,
    })
}

/// The kinds of image that are read.
pub(super) fn in_scope(questions: &[QuestionSpec]) -> Vec<&str> {
    let kinds = questions.iter().filter(|spec| spec.question == Question::Kind);
    let answers = kinds.flat_map(|spec| &spec.answers).filter(|answer| answer.in_scope);
    answers.map(|answer| answer.id.as_str()).collect()
}

pub(super) fn questions(
    check: &Check<'_>,
    raw: &[RawQuestion],
) -> Result<Vec<QuestionSpec>, ManifestError> {
    let mut specs = Vec::<QuestionSpec>::new();
    for raw in raw {
        let key = format!("questions ({})", raw.id);
        let Some(question) = Question::ALL.into_iter().find(|own| own.name() == raw.id) else {
            let known = Question::ALL.map(Question::name).join(", ");
            return Err(check.refuse(&key, format!("is no question of Duet: it asks {known}")));
        };
        if specs.iter().any(|spec| spec.question == question) {
            return Err(check.refuse(&key, "stands twice: ask it once"));
        }
        specs.push(one(check, &key, question, raw)?);
    }
    for question in Question::ALL {
        let asked = specs.iter().any(|spec| spec.question == question);
        if !asked && !question.is_optional() {
            let problem =
                format!("lacks the question {:?}: the decision needs it", question.name());
            return Err(check.refuse("questions", problem));
        }
    }
    Ok(specs)
}

fn one(
    check: &Check<'_>,
    key: &str,
    question: Question,
    raw: &RawQuestion,
) -> Result<QuestionSpec, ManifestError> {
    let mut ids = HashSet::new();
    let mut answers = Vec::with_capacity(raw.answers.len());
    for answer in &raw.answers {
        let at = |part: &str| format!("{key}.answers ({}).{part}", answer.id);
        check.name(&at("id"), &answer.id)?;
        if !ids.insert(answer.id.as_str()) {
            return Err(check.refuse(&at("id"), "stands twice: each answer needs an id of its own"));
        }
        if answer.in_scope.is_some() && question != Question::Kind {
            return Err(check.refuse(&at("in_scope"), "is only for answers of kind: remove it"));
        }
        if answer.prompts.is_empty() {
            return Err(check.refuse(&at("prompts"), "is empty: give at least one text"));
        }
        answers.push(Answer {
            id: answer.id.clone(),
            meaning: check.text(&at("meaning"), &answer.meaning)?,
            in_scope: answer.in_scope.unwrap_or(false),
            bias: check.between(&at("bias"), answer.bias, -1e6, 1e6)?,
            prompts: answer.prompts.clone(),
        });
    }
    let needed = question.needed_answers();
    if let Some(missing) = needed.iter().find(|id| !ids.contains(*id)) {
        return Err(
            check.refuse(key, format!("lacks the answer {missing:?}: the decision needs it"))
        );
    }
    if question.is_closed() && ids.len() > needed.len() {
        return Err(check.refuse(key, format!("may have the answers {needed:?} and no others")));
    }
    if answers.len() < 2 {
        return Err(
            check.refuse(key, "has fewer than two answers: there is nothing to choose from")
        );
    }
    if question == Question::Kind && !answers.iter().any(|answer| answer.in_scope) {
        let problem = "has no answer with in_scope = true: every image would be out of scope";
        return Err(check.refuse(key, problem));
    }
    let scale = check.between(&format!("{key}.scale"), raw.scale, 1e-6, 1e6)?;
    Ok(QuestionSpec { question, scale, answers })
}
