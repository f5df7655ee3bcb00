//! Whether two reports say the same: all but the times, the file's own names, and the last digits of what was computed.

use anyhow::Result;
use duet_case::Case;
use serde_json::{Value, json};

/// Numbers may differ by this much: a batch of another size adds up in another order.
const TOLERANCE: f64 = 1e-4;

/// The report without what differs from file to file of one film, and from run to run.
///
/// # Errors
///
/// Where it cannot be written as JSON.
pub(super) fn of_case(case: &Case) -> Result<Value> {
    let mut value = serde_json::to_value(case)?;
    if let Some(fields) = value.as_object_mut() {
        for name in ["id", "study", "received_at"] {
            fields.remove(name);
        }
        fields["hops"] = case.hops.iter().map(|hop| json!([hop.stage, hop.models])).collect();
    }
    for (section, names) in
        [("source", &["sha256", "bytes", "sealed"][..]), ("publication", &["published_at"])]
    {
        if let Some(fields) = value.get_mut(section).and_then(Value::as_object_mut) {
            names.iter().for_each(|name| drop(fields.remove(*name)));
        }
    }
    Ok(value)
}

/// The first place at which they differ, with what is there.
pub(super) fn difference(one: &Value, two: &Value) -> Option<String> {
    match (one, two) {
        (Value::Object(a), Value::Object(b)) => {
            let missing =
                a.keys().chain(b.keys()).find(|key| a.contains_key(*key) != b.contains_key(*key));
            missing.map(|key| format!("{key} is in one alone")).or_else(|| {
                a.iter().find_map(|(key, value)| {
                    Some(format!("{key}.{}", difference(value, b.get(key)?)?))
                })
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(i, (a, b))| Some(format!("{i}.{}", difference(a, b)?))),
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64()?, b.as_f64()?);
            ((a - b).abs() > TOLERANCE).then(|| format!(" {a} is not {b}"))
        }
        (a, b) => (a != b).then(|| format!(" {} is not {}", brief(a), brief(b))),
    }
}

fn brief(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_by_its_place() {
        let one = json!({ "a": [{ "p": 0.5 }, 2], "b": "x" });
        assert_eq!(difference(&one, &one), None);
        assert_eq!(difference(&one, &json!({ "a": [{ "p": 0.500_01 }, 2], "b": "x" })), None);
        for (other, place) in [
            (json!({ "a": [{ "p": 0.51 }, 2], "b": "x" }), "a.0.p"),
            (json!({ "a": [{ "p": 0.5 }], "b": "x" }), "a."),
            (json!({ "a": [{ "p": 0.5 }, 2] }), "b is in one alone"),
            (json!({ "a": [{ "p": 0.5 }, 2], "b": "y" }), "b."),
        ] {
            assert!(difference(&one, &other).is_some_and(|words| words.contains(place)), "{place}");
        }
    }
}
