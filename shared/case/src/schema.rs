//! The Case's JSON Schema, generated from the types.

use crate::Case;

/// JSON Schema (draft 2020-12) of the Case. The copy at `shared/case/schema/case.v1.schema.json` is this, by test.
pub fn case_schema() -> serde_json::Value {
    schemars::schema_for!(Case).to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `DUET_UPDATE=1 cargo test -p duet-case` writes the file anew.
    #[test]
    fn the_committed_schema_is_generated_from_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/case.v1.schema.json");
        let text = serde_json::to_string_pretty(&case_schema()).unwrap() + "\n";
        if std::env::var_os("DUET_UPDATE").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == text,
            "{path} differs from the types; raise SCHEMA_VERSION if an old reader would misread it, then run with DUET_UPDATE=1"
        );
    }
}
