//! From what the generalist saw to what is done about it: one pure function.

use duet_case::{Decision, Priority, Probability};
use duet_inference::{AnswerScore, DecisionRules, Look, Question};

/// What is decided of one image.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) decision: Decision,
    pub(crate) priority: Priority,
    /// The weightiest first; never empty.
    pub(crate) reasons: Vec<String>,
    pub(crate) kind: String,
    pub(crate) kind_meaning: String,
    pub(crate) fitness: String,
    pub(crate) abnormal: Probability,
}

/// Decides. Only what is certainly of another kind is out of scope, and only what is certainly of the right kind, fit
/// to read and below a calibrated threshold of abnormality is cleared; everything else is flagged, with every reason.
///
/// Where the likeliest kind is out of scope and the image is flagged all the same, `kind` is the likeliest one in
/// scope, so that in doubt a specialist looks.
///
/// Where the probability of abnormal is `stated`, a served model wrote it and nothing computed it: it clears nothing.
pub(crate) fn decide(look: &Look, rules: &DecisionRules, stated: bool) -> Verdict {
    let kinds = look.answers(Question::Kind);
    let in_scope: f64 =
        kinds.iter().filter(|own| own.in_scope).map(|own| own.probability.value()).sum();
    let likeliest = look.likeliest(Question::Kind);
    let uncertain_or_in_scope = in_scope >= rules.scope_min.value();
    let says_in_scope = likeliest.is_some_and(|own| own.in_scope);
    let (fitness, unfit) = fitness(look, rules);
    let abnormal = look.probability(Question::Abnormal, "abnormal");

    let Some(seen) = likeliest.filter(|_| !uncertain_or_in_scope && !says_in_scope) else {
        let read_as = likeliest_in_scope(kinds).or(likeliest);
        let (kind, kind_meaning) = named(read_as);
        let mut reasons = Vec::new();
        reasons.extend(doubt(likeliest, read_as, in_scope, uncertain_or_in_scope && says_in_scope));
        let fit = unfit.is_none();
        reasons.extend(unfit);
        reasons.extend(not_cleared(&kind, &kind_meaning, abnormal, stated, rules));
        let decision = if reasons.is_empty() {
            reasons.push(cleared(abnormal, rules));
            Decision::Cleared
        } else {
            Decision::Flagged
        };
        let priority =
            if decision == Decision::Flagged { priority(look, fit) } else { Priority::Routine };
        return Verdict { decision, priority, reasons, kind, kind_meaning, fitness, abnormal };
    };
    let reason = format!(
        "not an image that Duet reads: most likely {} ({}); the kinds that it reads have {} together, and below {} is out of scope",
        seen.meaning,
        percent(seen.probability.value()),
        percent(in_scope),
        percent(rules.scope_min.value())
    );
    Verdict {
        decision: Decision::OutOfScope,
        priority: Priority::Routine,
        reasons: vec![reason],
        kind: seen.id.clone(),
        kind_meaning: seen.meaning.clone(),
        fitness,
        abnormal,
    }
}

fn likeliest_in_scope(kinds: &[AnswerScore]) -> Option<&AnswerScore> {
    kinds
        .iter()
        .filter(|own| own.in_scope)
        .max_by(|a, b| a.probability.value().total_cmp(&b.probability.value()))
}

fn named(kind: Option<&AnswerScore>) -> (String, String) {
    kind.map_or_else(
        || ("unknown".to_owned(), "unknown".to_owned()),
        |own| (own.id.clone(), own.meaning.clone()),
    )
}

/// Why it is not certain what the image is.
fn doubt(
    likeliest: Option<&AnswerScore>,
    read_as: Option<&AnswerScore>,
    in_scope: f64,
    certain: bool,
) -> Option<String> {
    if certain {
        return None;
    }
    let (Some(seen), Some(read_as)) = (likeliest, read_as) else {
        return Some("the model does not say what this is".to_owned());
    };
    Some(format!(
        "uncertain what this is: most likely {} ({}), but the kinds that Duet reads have {} together; read as {}",
        seen.meaning,
        percent(seen.probability.value()),
        percent(in_scope),
        read_as.meaning
    ))
}

/// Whether it is fit to read, as an answer's id, and if not, why.
fn fitness(look: &Look, rules: &DecisionRules) -> (String, Option<String>) {
    let fit = look.probability(Question::Fitness, "fit");
    let defect = look
        .answers(Question::Fitness)
        .iter()
        .filter(|own| own.id != "fit")
        .max_by(|a, b| a.probability.value().total_cmp(&b.probability.value()));
    match defect {
        Some(defect) if fit < rules.fitness_min => {
            let reason = format!(
                "not fit to read as it is: most likely {} ({}); fit {}, and {} is needed",
                defect.meaning,
                percent(defect.probability.value()),
                percent(fit.value()),
                percent(rules.fitness_min.value())
            );
            (defect.id.clone(), Some(reason))
        }
        _ => ("fit".to_owned(), None),
    }
}

/// Why the image may not be cleared, as far as its content goes.
fn not_cleared(
    kind: &str,
    meaning: &str,
    abnormal: Probability,
    stated: bool,
    rules: &DecisionRules,
) -> Vec<String> {
    let mut looks = percent(abnormal.value());
    if stated {
        looks.push_str(" as the model states it, which nothing measured");
    }
    let Some(below) = rules.clear_below else {
        let why = rules.shortfall.map_or_else(
            || "no calibration says below which probability that is safe".to_owned(),
            |shortfall| shortfall.to_string(),
        );
        return vec![format!("abnormal {looks}; the model may clear nothing: {why}")];
    };
    let mut reasons = Vec::new();
    if stated {
        reasons.push(format!(
            "abnormal {looks}: only a probability of the model's own outputs may clear"
        ));
    } else if abnormal >= below {
        let below = percent(below.value());
        reasons.push(format!("abnormal {looks}, and only below {below} may be cleared"));
    }
    if !rules.clear_kinds.iter().any(|own| own == kind) {
        reasons.push(format!(
            "a {meaning} is never cleared: the miss rate was not measured on such images"
        ));
    }
    reasons
}

fn cleared(abnormal: Probability, rules: &DecisionRules) -> String {
    let below = rules.clear_below.map_or(0.0, Probability::value);
    let mut reason = format!("abnormal {}, below {}", percent(abnormal.value()), percent(below));
    if let Some(miss) = rules.miss_rate {
        reason.push_str(&format!(
            ": with {} confidence at most {} of abnormal images are cleared so",
            percent(miss.confidence.value()),
            percent(miss.bound.value())
        ));
    }
    reason
}

/// By the urgency question; one that cannot be judged as it is comes before the routine ones, since it is best taken
/// again while the patient is there.
fn priority(look: &Look, fit: bool) -> Priority {
    let emergency = look.probability(Question::Urgency, "emergency").value();
    let urgent = look.probability(Question::Urgency, "urgent").value();
    if emergency >= 0.5 {
        Priority::Emergency
    } else if emergency + urgent >= 0.5 || !fit {
        Priority::Urgent
    } else {
        Priority::Routine
    }
}

/// A share as people read it, and never 0 or 100 of what is neither.
pub(crate) fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p > 0.0 && p < 0.05 => "<0.1 %".to_owned(),
        p if p > 99.95 && p < 100.0 => ">99.9 %".to_owned(),
        p if (10.0..99.5).contains(&p) => format!("{p:.0} %"),
        p => format!("{p:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use duet_inference::{Answered, MissRate};

    use super::*;

    const FRONTAL: &str = "chest-radiograph-frontal";
    const LATERAL: &str = "chest-radiograph-lateral";

    fn p(value: f64) -> Probability {
        Probability::new(value).unwrap()
    }

    fn rules(clear_below: Option<f64>) -> DecisionRules {
        DecisionRules {
            scope_min: p(0.1),
            fitness_min: p(0.5),
            clear_below: clear_below.map(p),
            shortfall: None,
            clear_kinds: vec![FRONTAL.to_owned()],
            miss_rate: None,
        }
    }

    fn answered(question: Question, answers: &[(&str, f64)]) -> Answered {
        let answers = answers
            .iter()
            .map(|&(id, probability)| AnswerScore {
                id: id.to_owned(),
                meaning: id.replace('-', " "),
                in_scope: id == FRONTAL || id == LATERAL,
                probability: p(probability),
            })
            .collect();
        Answered { question, answers }
    }

    /// Frontal, fit, normal, routine; the last argument replaces answers.
    fn look(replaced: &[(Question, &[(&str, f64)])]) -> Look {
        let mut questions = vec![
            answered(Question::Kind, &[(FRONTAL, 0.97), (LATERAL, 0.02), ("photograph", 0.01)]),
            answered(Question::Fitness, &[("fit", 0.9), ("inverted", 0.06), ("blurred", 0.04)]),
            answered(Question::Abnormal, &[("normal", 0.99), ("abnormal", 0.01)]),
            answered(Question::Urgency, &[("routine", 0.9), ("urgent", 0.08), ("emergency", 0.02)]),
        ];
        for (question, answers) in replaced {
            questions.retain(|own| own.question != *question);
            questions.push(answered(*question, answers));
        }
        Look { questions }
    }

    #[test]
    fn every_end_has_its_reason() {
        use {Decision::*, Priority::*, Question::*};
        type Replaced<'a> = &'a [(Question, &'a [(&'a str, f64)])];
        type Row<'a> = (Replaced<'a>, Option<f64>, Decision, Priority, &'a str, &'a str);
        let table: &[Row<'_>] = &[
            (&[], Some(0.03), Cleared, Routine, FRONTAL, "abnormal 1.0 %, below 3.0 %"),
            (&[], None, Flagged, Routine, FRONTAL, "the model may clear nothing: no calibration"),
            (&[], Some(0.0), Flagged, Routine, FRONTAL, "only below 0.0 % may be cleared"),
            (&[], Some(0.01), Flagged, Routine, FRONTAL, "abnormal 1.0 %, and only below 1.0 %"),
            (
                &[(Abnormal, &[("normal", 0.66), ("abnormal", 0.34)])],
                Some(0.03),
                Flagged,
                Routine,
                FRONTAL,
                "abnormal 34 %, and only below 3.0 % may be cleared",
            ),
            (
                &[(Kind, &[(FRONTAL, 0.01), ("photograph", 0.99)])],
                Some(0.03),
                OutOfScope,
                Routine,
                "photograph",
                "most likely photograph (99 %); the kinds that it reads have 1.0 % together, and below 10 %",
            ),
            (
                &[(Kind, &[(FRONTAL, 0.2), ("photograph", 0.8)])],
                Some(0.03),
                Flagged,
                Routine,
                FRONTAL,
                "uncertain what this is: most likely photograph (80 %)",
            ),
            (
                &[(Kind, &[(FRONTAL, 0.09), ("ct", 0.05), ("mr", 0.05), ("photograph", 0.05)])],
                Some(0.03),
                Flagged,
                Routine,
                FRONTAL,
                "uncertain what this is: most likely chest radiograph frontal (9.0 %)",
            ),
            (
                &[(Kind, &[(FRONTAL, 0.03), (LATERAL, 0.97)])],
                Some(0.03),
                Flagged,
                Routine,
                LATERAL,
                "a chest radiograph lateral is never cleared",
            ),
            (
                &[(Fitness, &[("fit", 0.04), ("inverted", 0.81), ("blurred", 0.15)])],
                Some(0.03),
                Flagged,
                Urgent,
                FRONTAL,
                "not fit to read as it is: most likely inverted (81 %); fit 4.0 %, and 50 % is needed",
            ),
            (
                &[
                    (Abnormal, &[("normal", 0.1), ("abnormal", 0.9)]),
                    (Urgency, &[("routine", 0.1), ("urgent", 0.3), ("emergency", 0.6)]),
                ],
                Some(0.03),
                Flagged,
                Emergency,
                FRONTAL,
                "abnormal 90 %",
            ),
            (
                &[
                    (Abnormal, &[("normal", 0.1), ("abnormal", 0.9)]),
                    (Urgency, &[("routine", 0.4), ("urgent", 0.35), ("emergency", 0.25)]),
                ],
                Some(0.03),
                Flagged,
                Urgent,
                FRONTAL,
                "abnormal 90 %",
            ),
            // A cleared image is routine, whatever the urgency question says.
            (
                &[(Urgency, &[("routine", 0.1), ("urgent", 0.3), ("emergency", 0.6)])],
                Some(0.03),
                Cleared,
                Routine,
                FRONTAL,
                "abnormal 1.0 %",
            ),
        ];
        for (replaced, clear_below, decision, priority, kind, reason) in table {
            let verdict = decide(&look(replaced), &rules(*clear_below), false);
            let context = format!("{replaced:?} {clear_below:?}: {verdict:?}");
            assert_eq!(verdict.decision, *decision, "{context}");
            assert_eq!(verdict.priority, *priority, "{context}");
            assert_eq!(verdict.kind, *kind, "{context}");
            assert!(verdict.reasons.iter().any(|own| own.contains(reason)), "{context}");
        }
    }

    #[test]
    fn an_unfit_film_says_what_is_wrong_and_an_abnormal_one_keeps_both_reasons() {
        let verdict = decide(
            &look(&[
                (Question::Fitness, &[("fit", 0.1), ("blurred", 0.6), ("blank", 0.3)]),
                (Question::Abnormal, &[("normal", 0.2), ("abnormal", 0.8)]),
            ]),
            &rules(Some(0.03)),
            false,
        );
        assert_eq!(verdict.fitness, "blurred");
        assert_eq!(verdict.reasons.len(), 2, "{:?}", verdict.reasons);
    }

    #[test]
    fn a_probability_that_the_model_only_states_clears_nothing() {
        for (clear_below, says) in [
            (Some(0.03), "abnormal 1.0 % as the model states it, which nothing measured: only"),
            (None, "which nothing measured; the model may clear nothing"),
        ] {
            let verdict = decide(&look(&[]), &rules(clear_below), true);
            assert_eq!(verdict.decision, Decision::Flagged);
            assert!(verdict.reasons[0].contains(says), "{:?}", verdict.reasons);
        }
    }

    #[test]
    fn too_little_calibration_is_the_reason_where_it_is() {
        let rate =
            MissRate { bound: p(0.02), confidence: p(0.95), positives: 148, measured: p(0.0) };
        let rules = DecisionRules { shortfall: rate.shortfall(), ..rules(None) };
        let verdict = decide(&look(&[]), &rules, false);
        assert_eq!(verdict.decision, Decision::Flagged);
        let reason = &verdict.reasons[0];
        assert!(
            reason.contains("148 abnormal images") && reason.contains("at least 149"),
            "{reason}"
        );
    }

    #[test]
    fn a_model_that_answers_nothing_clears_nothing() {
        let verdict = decide(&Look { questions: Vec::new() }, &rules(Some(0.9)), false);
        assert_eq!(verdict.decision, Decision::Flagged, "{:?}", verdict.reasons);
    }
}
