//! Imports point one way, and what is meant to have one place has one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A crate of the workspace.
struct Member {
    /// For instance `services/triage`.
    folder: String,
    name: String,
    dependencies: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn members() -> Vec<Member> {
    let mut members = Vec::new();
    for kind in ["services", "shared"] {
        for entry in fs::read_dir(root().join(kind)).unwrap() {
            let path = entry.unwrap().path();
            let manifest = path.join("Cargo.toml");
            if !manifest.is_file() {
                continue;
            }
            let manifest: toml::Table = fs::read_to_string(manifest).unwrap().parse().unwrap();
            // Also what a crate uses for its tests or its build alone.
            let dependencies = ["dependencies", "dev-dependencies", "build-dependencies"]
                .iter()
                .filter_map(|section| manifest.get(*section)?.as_table())
                .flat_map(|table| table.keys().cloned())
                .collect();
            members.push(Member {
                folder: format!("{kind}/{}", path.file_name().unwrap().to_string_lossy()),
                name: manifest["package"]["name"].as_str().unwrap().to_owned(),
                dependencies,
            });
        }
    }
    assert!(members.len() > 10, "the workspace was not found");
    members
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The members, other than `allowed`, that depend on a crate or speak of it in their code.
fn users(what: &str, allowed: &str) -> Vec<String> {
    let mut users = Vec::new();
    for member in members().into_iter().filter(|member| member.folder != allowed) {
        let is_it = |name: &String| name == what || name.starts_with(&format!("{what}-"));
        if member.dependencies.iter().any(is_it) {
            users.push(format!("{}/Cargo.toml", member.folder));
        }
        let mut files = Vec::new();
        sources(&root().join(&member.folder), &mut files);
        let code = |file: &PathBuf| {
            let text = fs::read_to_string(file).unwrap();
            let mut lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            lines.any(|line| {
                let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
                words.any(|word| word == what || word.starts_with(&format!("{what}_")))
            })
        };
        users.extend(files.iter().filter(|file| code(file)).map(|file| file.display().to_string()));
    }
    users
}

/// Original files are in the inbox: those who feed `images` put them there, prepare takes them out, and nobody else speaks of it.
#[test]
fn only_those_who_feed_and_prepare_know_the_inbox() {
    let knows = ["services/gateway", "services/prepare", "services/duet"];
    let services = members().into_iter().filter(|member| member.folder.starts_with("services/"));
    for member in services.filter(|member| !knows.contains(&member.folder.as_str())) {
        let mut files = Vec::new();
        sources(&root().join(&member.folder).join("src"), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).unwrap().to_lowercase();
            assert!(!text.contains("inbox"), "{} speaks of the inbox", file.display());
        }
    }
}

#[test]
fn no_service_imports_another() {
    let members = members();
    let services: BTreeSet<_> = members
        .iter()
        .filter(|member| member.folder.starts_with("services/"))
        .map(|member| member.name.clone())
        .collect();
    for member in members {
        // The binary wires them all and holds nothing else.
        if member.folder == "services/duet" {
            continue;
        }
        let imported: Vec<_> = member.dependencies.intersection(&services).collect();
        assert!(imported.is_empty(), "{} imports {imported:?}", member.folder);
    }
}

#[test]
fn shared_imports_point_one_way() {
    // Each may import those before it.
    let order = [
        "duet-case",
        "duet-seal",
        "duet-telemetry",
        "duet-transport",
        "duet-blob",
        "duet-imaging",
        "duet-inference",
        "duet-fetch",
        "duet-evaluation",
        "duet-stage",
        "duet-http",
        "duet-testkit",
    ];
    let place = |name: &str| order.iter().position(|own| *own == name);
    for member in members().into_iter().filter(|member| member.folder.starts_with("shared/")) {
        let own = place(&member.name).unwrap_or_else(|| panic!("{} has no place", member.name));
        for dependency in member.dependencies.iter().filter_map(|name| place(name)) {
            // The testkit is for everybody's tests.
            assert!(
                dependency < own || order[dependency] == "duet-testkit",
                "{} imports {}",
                member.name,
                order[dependency]
            );
        }
    }
}

/// Only `publish`, and the command for a person who holds the key file, open what `prepare` sealed.
#[test]
fn sealed_identifiers_are_opened_in_two_places_alone() {
    let depend: BTreeSet<_> = members()
        .into_iter()
        .filter(|member| member.dependencies.contains("duet-seal"))
        .map(|member| member.folder)
        .collect();
    assert_eq!(
        depend,
        ["services/duet", "services/prepare", "services/publish"].map(str::to_owned).into()
    );
    let mut files = Vec::new();
    sources(&root().join("services"), &mut files);
    sources(&root().join("shared"), &mut files);
    let opens: BTreeSet<_> = files
        .iter()
        .filter(|file| fs::read_to_string(file).unwrap().contains("Opener"))
        .map(|file| file.strip_prefix(root()).unwrap().display().to_string())
        .filter(|file| !file.starts_with("shared/seal/"))
        .collect();
    assert_eq!(
        opens,
        ["services/duet/src/unseal.rs", "services/publish/src/filing.rs"].map(str::to_owned).into()
    );
}

#[test]
fn kafka_and_the_inference_engine_have_one_place_each() {
    assert_eq!(users("rdkafka", "shared/transport"), [""; 0]);
    assert_eq!(users("tract", "shared/inference"), [""; 0]);
}
