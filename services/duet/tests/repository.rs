//! What a reader of the repository is told. Who may import whom is held by `tests/tests/e2e/imports.rs`.

// Clippy takes the helpers of an integration test for product code; here too a panic is a failed test.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Files that a tool or a person may expect at the top; everything else has a folder.
#[test]
fn the_top_level_stays_small() {
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "Makefile",
        "README.md",
        "rust-toolchain.toml",
        "services",
        "shared",
        "models",
        "k8s",
        "tests",
        "target",
    ];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(
            name.starts_with('.') || known.contains(&name.as_str()),
            "{name} stands at the top level"
        );
    }
}

/// The table of invariants names the file that holds each.
#[test]
fn the_readme_names_files_that_are_there() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let named: Vec<&str> =
        readme.split('`').filter(|word| word.ends_with(".rs") && word.contains('/')).collect();
    assert!(named.len() > 10, "{named:?}");
    for path in named {
        assert!(root().join(path).is_file(), "README.md names {path}");
    }
}
