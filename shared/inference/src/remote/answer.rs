//! From a body to answers: whole and exactly of the schema, or a failure.
//!
//! A block of thoughts before the JSON and a code fence around it are tolerated; nothing else is. What was written is
//! never quoted.

use duet_case::Probability;
use serde::Deserialize;
use serde_json::{Value, error::Category};

use super::{FailureKind, ServedFailure, logprobs, plain};
use crate::{AnswerScore, Answered, DecisionRules, Look, Question};

/// A kind of image that may be answered.
pub(super) struct KindOffered {
    pub(super) id: &'static str,
    pub(super) meaning: &'static str,
    pub(super) in_scope: bool,
}

const fn kind(id: &'static str, meaning: &'static str, in_scope: bool) -> KindOffered {
    KindOffered { id, meaning, in_scope }
}

/// Those of the embedded generalist, by the same ids: specialists choose by them.
pub(super) const KINDS: [KindOffered; 8] = [
    kind(FRONTAL, "chest radiograph, frontal", true),
    kind("chest-radiograph-lateral", "chest radiograph, lateral", true),
    kind("chest-radiograph-child", "chest radiograph of a child, frontal", true),
    kind("other-radiograph", "radiograph of another part of the body", false),
    kind("ct", "computed tomography slice", false),
    kind("mr", "magnetic resonance image", false),
    kind("photograph", "photograph", false),
    kind(OTHER, "nothing of these", false),
];
const FRONTAL: &str = "chest-radiograph-frontal";
const OTHER: &str = "other";

pub(super) const FITNESS: [(&str, &str); 8] = [
    ("fit", "fit to read"),
    ("rotated-90", "lies on its side"),
    ("rotated-180", "upside down"),
    ("inverted", "grey scale inverted"),
    ("blurred", "blurred"),
    ("cropped", "part of the chest cut off"),
    ("overexposed", "over- or under-exposed"),
    ("blank", "blank"),
];
const ABNORMAL: [(&str, &str); 2] = [("normal", "looks normal"), ("abnormal", "looks abnormal")];
const URGENCY: [(&str, &str); 3] =
    [("routine", "routine"), ("urgent", "urgent"), ("emergency", "emergency")];

/// Of an answer that is more than this sure that an image is none that Duet reads, triage makes it out of scope.
const SURE: f64 = 0.9;

/// What holds without a calibration: nothing is cleared, and out of scope is only what the model is sure of.
pub(super) fn rules() -> DecisionRules {
    DecisionRules {
        scope_min: probability(1.0 - SURE),
        fitness_min: probability(0.5),
        clear_below: None,
        shortfall: None,
        clear_kinds: Vec::new(),
        miss_rate: None,
    }
}

/// The kinds that Duet reads.
pub(super) fn in_scope() -> Vec<&'static str> {
    KINDS.iter().filter(|kind| kind.in_scope).map(|kind| kind.id).collect()
}

/// What an answer says.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) look: Look,
    pub(super) is_measured: bool,
    /// As the server calls the model.
    pub(super) model: Option<String>,
    /// As the server calls its state.
    pub(super) fingerprint: Option<String>,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    model: Option<String>,
    system_fingerprint: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
    #[serde(default)]
    logprobs: Value,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    refusal: Option<String>,
}

/// What the schema asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    kind: String,
    kind_percent: u8,
    fitness: String,
    abnormal: String,
    abnormal_percent: u8,
    urgency: String,
}

pub(super) fn read(body: &[u8]) -> Result<Answer, ServedFailure> {
    let completion: Completion = serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            Category::Eof => "JSON that breaks off",
            Category::Data => "JSON, but no chat completion",
            Category::Syntax | Category::Io => "no JSON",
        };
        ServedFailure::new(FailureKind::Malformed, format!("the answer is {what}"))
    })?;
    let Completion { choices, model, system_fingerprint } = completion;
    let mut choices = choices.into_iter();
    let Some(Choice { message, finish_reason, logprobs }) = choices.next() else {
        let what = "the answer has no choices";
        return Err(ServedFailure::new(FailureKind::Empty, what));
    };
    if choices.next().is_some() {
        let what = "the answer has more than the one choice that was asked for";
        return Err(ServedFailure::new(FailureKind::Malformed, what));
    }
    if message.refusal.as_deref().is_some_and(|refusal| !refusal.trim().is_empty()) {
        return Err(ServedFailure::new(FailureKind::Refusal, "the model declines to answer"));
    }
    finished(finish_reason.as_deref())?;
    let text = message.content.unwrap_or_default();
    if text.trim().is_empty() {
        return Err(ServedFailure::new(FailureKind::Empty, "the answer holds no text"));
    }
    let written = parse(json_in(&text))?;
    let measured = logprobs::abnormal(&logprobs).and_then(|p| Probability::new(p).ok());
    Ok(Answer {
        look: look(&written, measured)?,
        is_measured: measured.is_some(),
        model: model.as_deref().and_then(plain),
        fingerprint: system_fingerprint.as_deref().and_then(plain),
    })
}

fn finished(reason: Option<&str>) -> Result<(), ServedFailure> {
    match reason {
        Some("stop" | "eos_token" | "stop_sequence") => Ok(()),
        Some("content_filter") => {
            let what = "the server's filter kept the answer back";
            Err(ServedFailure::new(FailureKind::Refusal, what))
        }
        Some("length") => {
            let what =
                "the answer was cut off: raise triage.backend.max_tokens, or the server's context";
            Err(ServedFailure::new(FailureKind::CutOff, what))
        }
        _ => {
            let what = "the answer does not say that it came to its end";
            Err(ServedFailure::new(FailureKind::CutOff, what))
        }
    }
}

/// The JSON without thoughts before it and a fence around it.
fn json_in(text: &str) -> &str {
    // Some servers leave the opening mark out.
    let text = text.rsplit_once("</think>").map_or(text, |(_, rest)| rest).trim();
    let fenced = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    match fenced {
        Some(inner) => inner.strip_prefix("json").unwrap_or(inner).trim(),
        None => text,
    }
}

fn parse(json: &str) -> Result<Written, ServedFailure> {
    let wrong = |what: &str| ServedFailure::new(FailureKind::NotSchema, what);
    let written: Written = serde_json::from_str(json).map_err(|error| match error.classify() {
        Category::Data => wrong("the answer is JSON, but not of the schema"),
        _ => wrong("the answer is not the JSON that was asked for, alone"),
    })?;
    if written.kind_percent > 100 || written.abnormal_percent > 100 {
        return Err(wrong("a percentage of the answer is above 100"));
    }
    Ok(written)
}

fn look(written: &Written, measured: Option<Probability>) -> Result<Look, ServedFailure> {
    let kind =
        KINDS.iter().find(|own| own.id == written.kind).ok_or_else(|| not_offered("kind"))?;
    let fitness = chosen(&FITNESS, "fitness", &written.fitness)?;
    let (abnormal_id, _) = chosen(&ABNORMAL, "abnormal", &written.abnormal)?;
    let urgency = chosen(&URGENCY, "urgency", &written.urgency)?;
    let abnormal = measured.unwrap_or_else(|| {
        let stated = share(written.abnormal_percent);
        // Where word and number disagree, the more worrying of them counts.
        probability(if abnormal_id == "abnormal" { stated.max(0.5) } else { stated })
    });
    let normal = probability(1.0 - abnormal.value());
    let [healthy, ill] = ABNORMAL;
    Ok(Look {
        questions: vec![
            Answered {
                question: Question::Kind,
                answers: kinds(kind, share(written.kind_percent)),
            },
            one(Question::Fitness, fitness),
            Answered {
                question: Question::Abnormal,
                answers: vec![score(healthy, normal), score(ill, abnormal)],
            },
            one(Question::Urgency, urgency),
        ],
    })
}

/// The kind that was chosen with how sure the model is, and what the rest of it may be: of one that Duet does not read,
/// a frontal film; of one that it reads, something else. Either way the doubt is flagged. The chosen one comes last.
fn kinds(chosen: &KindOffered, sure: f64) -> Vec<AnswerScore> {
    let (rest, sure) = if chosen.in_scope { (OTHER, sure) } else { (FRONTAL, sure.max(0.5)) };
    let of = |kind: &KindOffered, value: f64| AnswerScore {
        id: kind.id.to_owned(),
        meaning: kind.meaning.to_owned(),
        in_scope: kind.in_scope,
        probability: probability(value),
    };
    let rest = KINDS.iter().filter(|kind| kind.id == rest && kind.id != chosen.id);
    rest.map(|kind| of(kind, 1.0 - sure)).chain([of(chosen, sure)]).collect()
}

fn chosen(
    offered: &[(&'static str, &'static str)],
    question: &str,
    written: &str,
) -> Result<(&'static str, &'static str), ServedFailure> {
    offered.iter().find(|(id, _)| *id == written).copied().ok_or_else(|| not_offered(question))
}

fn not_offered(question: &str) -> ServedFailure {
    let what = format!("the answer to {question:?} is none of those that were offered");
    ServedFailure::new(FailureKind::NotSchema, what)
}

fn one(question: Question, answer: (&str, &str)) -> Answered {
    Answered { question, answers: vec![score(answer, Probability::ONE)] }
}

fn score((id, meaning): (&str, &str), probability: Probability) -> AnswerScore {
    AnswerScore { id: id.to_owned(), meaning: meaning.to_owned(), in_scope: false, probability }
}

fn share(percent: u8) -> f64 {
    f64::from(percent) / 100.0
}

/// Of a share that is within 0 and 1 already, to within rounding.
fn probability(share: f64) -> Probability {
    Probability::new(share.clamp(0.0, 1.0)).unwrap_or(Probability::ONE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GOOD: &str = r#"{"kind":"chest-radiograph-frontal","kind_percent":97,"fitness":"fit","abnormal":"normal","abnormal_percent":3,"urgency":"routine"}"#;

    fn completion(content: &str) -> Vec<u8> {
        let choice = json!({"message": {"content": content}, "finish_reason": "stop"});
        serde_json::to_vec(&json!({"choices": [choice], "model": "m"})).unwrap()
    }

    #[test]
    fn thoughts_and_fences_are_tolerated_and_nothing_else() {
        let good = |content: String| read(&completion(&content)).map(|answer| answer.look);
        let plain = good(GOOD.to_owned()).unwrap();
        for wrapped in [
            format!("<think>It is {{a film}}.</think>\n{GOOD}"),
            format!("It is a film.</think>{GOOD}"),
            format!("```json\n{GOOD}\n```"),
            format!("```\n{GOOD}```\n"),
            format!("<think>a</think> ```json {GOOD} ```"),
        ] {
            assert_eq!(good(wrapped.clone()).unwrap(), plain, "{wrapped}");
        }
        for wrong in [
            format!("Here it is: {GOOD}"),
            format!("{GOOD} I hope this helps."),
            format!("{GOOD}{GOOD}"),
            format!("[{GOOD}]"),
            format!("<think>{GOOD}"),
            GOOD.replace("\"fit\"", "\"good\""),
            GOOD.replace("97", "970"),
            GOOD.replace("97", "101"),
            GOOD.replace("97", "\"97\""),
            GOOD.replace("97", "-1"),
            GOOD.replace(",\"urgency\":\"routine\"", ""),
            GOOD.replace("}", ",\"name\":\"Doe\"}"),
            GOOD.replace("\"fitness\"", "\"kind\":\"ct\",\"fitness\""),
        ] {
            let failure = good(wrong.clone()).expect_err(&wrong);
            assert_eq!(failure.kind, FailureKind::NotSchema, "{wrong}: {failure}");
            assert!(!failure.to_string().contains("Doe"), "what was written is quoted: {failure}");
        }
    }

    #[test]
    fn where_word_and_number_disagree_the_more_worrying_counts() {
        for (word, percent, expected) in
            [("normal", 3, 0.03), ("normal", 90, 0.9), ("abnormal", 80, 0.8), ("abnormal", 2, 0.5)]
        {
            let json = GOOD
                .replace("\"normal\"", &format!("{word:?}"))
                .replace("\"abnormal_percent\":3", &format!("\"abnormal_percent\":{percent}"));
            let look = read(&completion(&json)).unwrap().look;
            let found = look.probability(Question::Abnormal, "abnormal").value();
            assert!((found - expected).abs() < 1e-9, "{word} {percent}: {found}");
        }
    }

    #[test]
    fn the_doubt_about_a_kind_is_always_towards_attention() {
        for (kind, percent, likeliest, in_scope) in [
            (FRONTAL, 97, FRONTAL, 0.97),
            (FRONTAL, 20, OTHER, 0.2),
            ("photograph", 97, "photograph", 0.03),
            ("photograph", 5, "photograph", 0.5),
        ] {
            let json = GOOD
                .replace(FRONTAL, kind)
                .replace("\"kind_percent\":97", &format!("\"kind_percent\":{percent}"));
            let look = read(&completion(&json)).unwrap().look;
            let kinds = look.answers(Question::Kind);
            let sum: f64 =
                kinds.iter().filter(|own| own.in_scope).map(|own| own.probability.value()).sum();
            assert!((sum - in_scope).abs() < 1e-9, "{kind} {percent}: {kinds:?}");
            assert_eq!(look.likeliest(Question::Kind).unwrap().id, likeliest, "{kind} {percent}");
        }
    }
}
