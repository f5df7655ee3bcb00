//! Manifests of models: what is accepted can be used, and what is refused is refused in words.
#![no_main]

use std::path::Path;

use duet_inference::Manifest;
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|text: &str| -> Corpus {
    let file = Path::new("fuzz/model.toml");
    match Manifest::parse(file, text) {
        Ok(manifest) => {
            assert!(!manifest.name.is_empty() && !manifest.title.is_empty());
            // The weights lie beside the manifest and nowhere else.
            assert_eq!(Path::new(&manifest.file).components().count(), 1, "{}", manifest.file);
            if let Some(input) = manifest.kind.input() {
                assert!(input.width > 0 && input.height > 0);
                assert!(input.std.is_finite() && input.std > 0.0);
            }
            for pull in &manifest.pull {
                assert_eq!(Path::new(&pull.file).components().count(), 1, "{}", pull.file);
            }
            assert_eq!(manifest.model_ref().name, manifest.name);
            Corpus::Keep
        }
        Err(error) => {
            assert!(error.to_string().contains("model.toml"), "{error}");
            // Of these libFuzzer learns what a manifest looks like.
            Corpus::Keep
        }
    }
});
