//! A Case, explained: what was decided, by which numbers against which thresholds, by whom and when.

use std::fmt::Write as _;

use duet_case::{Case, Decision, Hop, LabelScore, ModelRef, Probability, Score, Triage};

use super::{Letter, Prompts};

/// Answers of a question that are shown; the likeliest ones.
const ANSWERS: usize = 3;

// Writing to a String cannot fail; `fmt::Write` says otherwise because others can.
macro_rules! say {
    ($to:expr, $($what:tt)*) => {{
        let _ = writeln!($to, $($what)*);
    }};
}

/// Why it was given up.
pub(super) fn letter(letter: &Letter) -> String {
    let Letter { id, letter, case, is_redriven } = letter;
    let mut text = String::new();
    say!(text, "{case}: given up, a dead letter ({id})");
    say!(text, "  by      {}, in {} tries, {}", letter.stage, letter.attempts, letter.time);
    say!(text, "  class   {}", letter.class);
    say!(text, "  why     {}", letter.message);
    say!(
        text,
        "  from    {}, partition {}, offset {}",
        letter.topic,
        letter.partition,
        letter.offset
    );
    let again = if *is_redriven {
        "it was sent again since; no report of it is there yet"
    } else {
        "not sent again; `duet dead-letters redrive` does, `duet dead-letters show` has more"
    };
    say!(text, "  since   {again}");
    text
}

/// Why it ended as it did.
pub(super) fn case(case: &Case, prompts: Option<&Prompts>) -> String {
    let mut text = String::new();
    let end = case.conclusion.as_ref();
    let outcome =
        end.map_or_else(|| "not finished".to_owned(), |own| own.outcome.name().replace('_', " "));
    say!(text, "{}: {outcome}", case.id);
    if let Some(end) = end {
        say!(text, "  {}", end.summary);
    }
    source(&mut text, case);
    match &case.triage {
        Some(triage) => of_triage(&mut text, triage, prompts),
        None => say!(text, "triage: it never looked"),
    }
    specialists(&mut text, case);
    measurements(&mut text, case);
    hops(&mut text, &case.hops);
    text
}

fn source(text: &mut String, case: &Case) {
    let own = &case.source;
    let mut words = vec![format!("{:?}", own.format).to_uppercase()];
    words
        .extend([&own.modality, &own.body_part, &own.view_position].into_iter().flatten().cloned());
    words.push(match (own.width, own.height) {
        (0, _) | (_, 0) => "no pixels".to_owned(),
        (width, height) => format!("{width} x {height}, {} bits", own.bits),
    });
    say!(text, "source: {}, received {}", words.join(" "), case.received_at.to_rfc3339());
    for note in &own.notes {
        say!(text, "  {note}");
    }
}

fn of_triage(text: &mut String, triage: &Triage, prompts: Option<&Prompts>) {
    let verb = match triage.decision {
        Decision::Flagged => "flagged",
        Decision::Cleared => "cleared",
        Decision::OutOfScope => "refused as out of scope",
    };
    say!(text, "triage: {verb}, {}, by {}", triage.priority.name(), named(&triage.model));
    for reason in &triage.reasons {
        say!(text, "  because {reason}");
    }
    say!(text, "  seen as {} ({})", triage.kind_meaning, triage.kind);
    thresholds(text, triage, prompts.and_then(|own| own.in_scope(triage)));
    questions(text, triage, prompts);
}

/// Every number beside what it was held against.
fn thresholds(text: &mut String, triage: &Triage, in_scope: Option<f64>) {
    let rules = triage.rules.as_ref();
    if let (Some(rules), Some(fit)) = (rules, probability(triage, "fitness", "fit")) {
        let is = if fit < rules.fitness_min { "not fit to read" } else { "fit to read" };
        say!(
            text,
            "  {:<28} {}  against {} at least: {is}",
            "fit",
            share(fit),
            share(rules.fitness_min)
        );
    }
    if let Some(rules) = rules {
        let what = "kinds in scope, together";
        let is = if triage.decision == Decision::OutOfScope {
            "out of scope"
        } else {
            "in scope, or not certainly out of it"
        };
        let sum = in_scope.map_or_else(|| " ".repeat(6), |sum| format!("{sum:.4}"));
        say!(text, "  {what:<28} {sum}  against {} at least: {is}", share(rules.scope_min));
    }
    let abnormal = share(triage.abnormal);
    match triage.clear_below {
        Some(below) => {
            let is = if triage.abnormal < below {
                "may be cleared, as far as this goes"
            } else {
                "may not be cleared"
            };
            say!(text, "  {:<28} {abnormal}  against below {}: {is}", "abnormal", share(below));
        }
        None => say!(text, "  {:<28} {abnormal}  the model may clear nothing", "abnormal"),
    }
    match rules.map(|rules| (rules.miss_bound, rules.miss_confidence)) {
        Some((Some(bound), Some(confidence))) => say!(
            text,
            "  {:<28} with {} confidence at most {} of abnormal images are cleared",
            "promise (conformal)",
            share(confidence),
            share(bound)
        ),
        Some(_) => say!(text, "  {:<28} none holds for this threshold", "promise (conformal)"),
        None => {
            say!(text, "  the other thresholds are not in this Case: an earlier version wrote it")
        }
    }
    let rate = rules.map_or(String::new(), |rules| {
        format!(", as {} of cleared images are", share(rules.audit_rate))
    });
    match (triage.decision, triage.audit) {
        (Decision::Cleared, true) => {
            say!(text, "  {:<28} drawn{rate}: a specialist looked all the same", "audit")
        }
        (Decision::Cleared, false) => say!(text, "  {:<28} not drawn{rate}", "audit"),
        _ => say!(text, "  {:<28} only of cleared images", "audit"),
    }
}

fn probability(triage: &Triage, question: &str, answer: &str) -> Option<Probability> {
    let scores = &triage.scores;
    let found = scores.iter().find(|own| own.question == question && own.answer == answer);
    found.map(|own| own.probability)
}

fn questions(text: &mut String, triage: &Triage, prompts: Option<&Prompts>) {
    if let Some(caveat) = prompts.and_then(|own| own.caveat.as_ref()) {
        say!(text, "  {caveat}");
    }
    let mut asked: Vec<&str> = Vec::new();
    for score in &triage.scores {
        if !asked.contains(&score.question.as_str()) {
            asked.push(&score.question);
        }
    }
    for question in asked {
        let mut answers: Vec<&Score> =
            triage.scores.iter().filter(|own| own.question == question).collect();
        answers.sort_by(|a, b| b.probability.value().total_cmp(&a.probability.value()));
        let more = answers.len().saturating_sub(ANSWERS);
        say!(
            text,
            "  asked: {question}{}",
            if more > 0 {
                format!(" ({more} less likely answers are not shown)")
            } else {
                String::new()
            }
        );
        for answer in answers.into_iter().take(ANSWERS) {
            let texts = prompts.map_or(&[][..], |own| own.texts(question, &answer.answer));
            let texts: Vec<_> =
                texts.iter().map(|text| format!("\u{201c}{text}\u{201d}")).collect();
            say!(
                text,
                "    {}  {:<26} {}{}",
                share(answer.probability),
                answer.answer,
                if answer.stated { "(as the model writes, not computed) " } else { "" },
                texts.join(", ")
            );
        }
    }
}

fn specialists(text: &mut String, case: &Case) {
    let Some(assessment) = &case.assessment else {
        say!(text, "specialists: none looked");
        return;
    };
    if let Some(reason) = &assessment.reason {
        say!(text, "specialists: nothing was looked for: {reason}");
        return;
    }
    let models: Vec<_> = assessment.models.iter().map(named).collect();
    say!(text, "specialists: {}", models.join("; "));
    if !assessment.uncalibrated.is_empty() {
        let models = assessment.uncalibrated.join(" and ");
        say!(text, "  what {models} gives are scores: nobody has calibrated them");
    }
    let mut scores: Vec<&LabelScore> = assessment.scores.iter().collect();
    scores.sort_by(|a, b| margin(b).total_cmp(&margin(a)));
    for score in scores {
        let is = if score.probability >= score.threshold { "FINDING" } else { "" };
        let place = case
            .findings
            .iter()
            .find(|own| own.label == score.label && own.model.name == score.model)
            .and_then(|own| own.region.as_ref())
            .map(|region| region.original_box)
            .map_or(String::new(), |own| {
                format!("at {:.0},{:.0}, {:.0} x {:.0} pixels", own.x, own.y, own.width, own.height)
            });
        say!(
            text,
            "  {:<28} {}  against {} at least  {is:<7} {place}",
            score.label,
            share(score.probability),
            share(score.threshold)
        );
    }
}

fn measurements(text: &mut String, case: &Case) {
    for own in &case.measurements {
        let value = own.value.map_or_else(
            || format!("none: {}", own.reason.as_deref().unwrap_or("no reason was given")),
            |value| {
                let usual =
                    own.usual_up_to.map_or(String::new(), |most| format!(", usual up to {most}"));
                format!("{value:.3}{usual}")
            },
        );
        say!(text, "measured: {} {value}, by {}", own.name, named(&own.model));
        for caution in &own.cautions {
            say!(text, "  but {caution}");
        }
    }
}

fn margin(score: &LabelScore) -> f64 {
    score.probability.value() - score.threshold.value()
}

fn hops(text: &mut String, hops: &[Hop]) {
    for hop in hops {
        let models: Vec<_> = hop.models.iter().map(named).collect();
        let by =
            if models.is_empty() { String::new() } else { format!(", by {}", models.join("; ")) };
        say!(
            text,
            "hop: {:<10} {}, waited {:.0} ms, took {:.0} ms for {} images, {:.3} CPU seconds{by}",
            hop.stage,
            hop.started_at.to_rfc3339(),
            hop.queue_ms,
            hop.duration_ms,
            hop.batch,
            hop.cpu_seconds
        );
    }
}

fn named(model: &ModelRef) -> String {
    format!("{} {} (sha256 {})", model.name, model.version, model.sha256)
}

fn share(probability: Probability) -> String {
    format!("{:.4}", probability.value())
}
