//! The probability of abnormal from the model's own outputs, where a server tells them.
//!
//! The tokens of the answer come with the likeliest ones that could have stood in their place. At the token with which
//! the value of `"abnormal"` begins, those that begin `normal` and those that begin `abnormal` share the probability.

use serde::Deserialize;
use serde_json::Value;

/// Less than this for the two words together, and the model meant neither: the schema alone put one of them there.
const MEANT: f64 = 0.5;

const KEY: &str = "\"abnormal\"";

#[derive(Deserialize)]
struct Logprobs {
    content: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    logprob: f64,
    #[serde(default)]
    top_logprobs: Vec<Alternative>,
}

#[derive(Deserialize)]
struct Alternative {
    token: String,
    logprob: f64,
}

/// From the `logprobs` of a choice; `None` where they are not there, are not understood, or say nothing.
pub(super) fn abnormal(logprobs: &Value) -> Option<f64> {
    let tokens = Logprobs::deserialize(logprobs).ok()?.content;
    let text: String = tokens.iter().map(|own| own.token.as_str()).collect();
    let value = value_of_abnormal(&text)?;
    let mut start = 0;
    let token = tokens.iter().find(|own| {
        start += own.token.len();
        start > value
    })?;
    let lead = token.token.get(..value - (start - token.token.len()))?;

    let mut listed: Vec<(&str, f64)> =
        token.top_logprobs.iter().map(|own| (own.token.as_str(), own.logprob.exp())).collect();
    if !listed.iter().any(|(text, _)| *text == token.token) {
        listed.push((&token.token, token.logprob.exp()));
    }
    if !listed.iter().all(|(_, p)| (0.0..=1.000_001).contains(p)) {
        return None;
    }
    let of = |word: &str| -> f64 {
        listed.iter().filter(|(text, _)| begins(text, lead, word)).map(|(_, p)| p).sum()
    };
    let (normal, abnormal) = (of("normal"), of("abnormal"));
    if normal + abnormal < MEANT {
        return None;
    }
    // A word that is not listed has at most what the least of those has that are, and is given that.
    let least = listed.iter().map(|(_, p)| *p).fold(1.0, f64::min);
    let unlisted = if listed.len() > 1 { least } else { 1.0 - least };
    let normal = if normal > 0.0 { normal } else { unlisted };
    let abnormal = if abnormal > 0.0 { abnormal } else { unlisted };
    let share = abnormal / (normal + abnormal);
    share.is_finite().then_some(share)
}

/// Where the value begins that follows the key; of several the last, since a model may have thought aloud before.
fn value_of_abnormal(text: &str) -> Option<usize> {
    let places = text.match_indices(KEY).filter_map(|(place, _)| {
        let rest = text.get(place + KEY.len()..)?;
        let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
        Some(text.len() - rest.len())
    });
    places.last()
}

/// Whether `token`, in place of one that begins with `lead`, begins `word`.
fn begins(token: &str, lead: &str, word: &str) -> bool {
    let bare =
        |text: &str| text.chars().filter(|letter| !letter.is_whitespace()).collect::<String>();
    let (token, lead) = (bare(token), bare(lead));
    token
        .strip_prefix(&lead)
        .is_some_and(|rest| !rest.is_empty() && (word.starts_with(rest) || rest.starts_with(word)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(text: &str, alternatives: &[(&str, f64)]) -> Value {
        let top: Vec<_> = alternatives
            .iter()
            .map(|(text, p)| json!({"token": text, "logprob": p.ln()}))
            .collect();
        let own = alternatives.iter().find(|(other, _)| *other == text).map_or(1.0, |own| own.1);
        json!({"token": text, "logprob": own.ln(), "top_logprobs": top})
    }

    #[test]
    fn the_two_words_share_the_probability_however_the_text_is_cut_into_tokens() {
        // the tokens around the value, and what comes out
        let table: &[(Vec<Value>, Option<f64>)] = &[
            (
                vec![
                    token("\"abnormal\": \"", &[]),
                    token("normal", &[("normal", 0.8), ("abnormal", 0.2)]),
                ],
                Some(0.2),
            ),
            (
                vec![
                    token("\"abnormal\":", &[]),
                    token(
                        " \"ab",
                        &[(" \"ab", 0.6), (" \"normal", 0.1), ("\"n", 0.1), (" [", 0.2)],
                    ),
                    token("normal", &[]),
                ],
                Some(0.75),
            ),
            // The other word is not listed: it has at most the least that is.
            (
                vec![
                    token("\"abnormal\":\"", &[]),
                    token("normal", &[("normal", 0.97), ("none", 0.02), ("x", 0.01)]),
                ],
                Some(0.01 / 0.98),
            ),
            (vec![token("\"abnormal\":\"", &[]), token("normal", &[("normal", 0.9)])], Some(0.1)),
            // Thought aloud first; the answer is the last.
            (
                vec![
                    token("\"abnormal\":\"normal\"</think>", &[]),
                    token("\"abnormal\":\"", &[]),
                    token("a", &[("a", 0.9), ("n", 0.1)]),
                    token("bnormal", &[]),
                ],
                Some(0.9),
            ),
            // Neither word was meant.
            (
                vec![
                    token("\"abnormal\":\"", &[]),
                    token("normal", &[("normal", 0.001), ("abnormal", 0.002), ("zebra", 0.9)]),
                ],
                None,
            ),
            (vec![token("\"kind\":\"ct\"", &[])], None),
        ];
        for (tokens, expected) in table {
            let found = abnormal(&json!({"content": tokens}));
            let same = match (found, expected) {
                (Some(found), Some(expected)) => (found - expected).abs() < 1e-9,
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(same, "{tokens:?}: {found:?}, not {expected:?}");
        }
    }

    #[test]
    fn what_is_not_understood_says_nothing() {
        for logprobs in
            [json!(null), json!({"content": null}), json!({"content": [{"token": 1}]}), json!([])]
        {
            assert_eq!(abnormal(&logprobs), None, "{logprobs}");
        }
        let impossible = json!({"content": [{"token": "\"abnormal\":\"normal", "logprob": 3.0}]});
        assert_eq!(abnormal(&impossible), None);
    }
}
