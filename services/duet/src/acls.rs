//! `duet topics acls`: what each service has to be allowed on the cluster, and nothing more.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use duet_case::Topic;
use duet_stage::{CaseIndex, Stage};
use duet_transport::{Delivery, KafkaConfig};
use serde::Serialize;

use crate::{cli, output, process::group_of, replay, why};

#[derive(Debug, Args)]
pub(crate) struct Acls {
    /// What the names of principals begin with; the service's name comes behind it
    #[arg(long, value_name = "PREFIX", default_value = "User:duet-")]
    principal_prefix: String,
    /// Only this one
    #[arg(long, value_name = "NAME", value_parser = names())]
    service: Option<String>,
    /// JSON instead of commands
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) kafka: cli::Kafka,
}

/// Whose groups of records are written under this name, see `dead_letters`.
const REDRIVE: &str = "redrive";

/// What a service, or a command, does on the cluster.
struct Row {
    name: &'static str,
    /// In its own group.
    reads: &'static [Topic],
    /// In no group.
    follows: Vec<Topic>,
    writes: &'static [Topic],
}

/// The services in the order of flow, then the commands that people run.
fn rows() -> Vec<Row> {
    use Topic::*;
    let follows = || [CaseIndex::CASE_TOPICS, &[DeadLetters, Redriven][..]].concat();
    let row = |name, reads, follows, writes| Row { name, reads, follows, writes };
    vec![
        row(duet_gateway::NAME, &[], follows(), &[Images]),
        row(
            duet_prepare::Prepare::NAME,
            duet_prepare::Prepare::INPUTS,
            vec![],
            &[Prepared, OutOfScope, DeadLetters],
        ),
        row(
            duet_triage::Triage::NAME,
            duet_triage::Triage::INPUTS,
            vec![],
            &[Flagged, Cleared, OutOfScope, DeadLetters],
        ),
        row(
            duet_specialist::Specialist::NAME,
            duet_specialist::Specialist::INPUTS,
            vec![],
            &[Assessed, DeadLetters],
        ),
        row(
            duet_publish::Publish::NAME,
            duet_publish::Publish::INPUTS,
            vec![],
            &[Reports, Annotated, DeadLetters],
        ),
        row(duet_review::NAME, &[], follows(), &[]),
        row("send", &[], vec![], &[Images]),
        row("watch", &[], vec![Reports, DeadLetters], &[]),
        // `duet dead-letters`, back into every topic that a stage reads.
        row(
            REDRIVE,
            &[],
            vec![DeadLetters, Redriven],
            &[Images, Prepared, Flagged, Cleared, OutOfScope, Assessed, Redriven],
        ),
        row("why", &[], why::TOPICS.to_vec(), &[]),
        // Originals with `--images` alone; leave that right out where nobody uses it.
        row(replay::NAME, &[], vec![Reports, Images], &[]),
    ]
}

fn names() -> clap::builder::PossibleValuesParser {
    rows().into_iter().map(|row| row.name).collect::<Vec<_>>().into()
}

/// What somebody is allowed to do with something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Grant {
    service: &'static str,
    principal: String,
    /// `topic`, `group` or `transactional-id`, as kafka-acls has them.
    resource: &'static str,
    name: String,
    /// `literal` or `prefixed`.
    pattern: &'static str,
    /// As kafka-acls has them. Read and Write imply Describe.
    operation: &'static str,
}

fn grants(args: &Acls, kafka: &KafkaConfig) -> Vec<Grant> {
    let mut grants = Vec::new();
    let is_wanted = |row: &Row| args.service.as_deref().is_none_or(|name| name == row.name);
    for row in rows().into_iter().filter(is_wanted) {
        let mut grant = |resource, name: String, pattern, operation| {
            let principal = format!("{}{}", args.principal_prefix, row.name);
            let service = row.name;
            grants.push(Grant { service, principal, resource, name, pattern, operation });
        };
        for topic in row.reads.iter().chain(&row.follows) {
            grant("topic", kafka.name_of(*topic), "literal", "Read");
        }
        if !row.reads.is_empty() {
            let group = group_of(&kafka.topic_prefix, row.name);
            grant("group", group.clone(), "literal", "Read");
            if kafka.delivery == Delivery::ExactlyOnce {
                // Each replica has an id of its own that begins so.
                grant("transactional-id", format!("{group}-"), "prefixed", "Write");
            }
        }
        if row.name == REDRIVE && kafka.delivery == Delivery::ExactlyOnce {
            let name = group_of(&kafka.topic_prefix, REDRIVE);
            grant("transactional-id", name, "literal", "Write");
        }
        if row.name == replay::NAME {
            let shadow = replay::shadow_of(kafka);
            for operation in ["Create", "Write"] {
                grant("topic", shadow.name_of(Topic::Reports), "literal", operation);
            }
            let name = group_of(&shadow.topic_prefix, replay::NAME);
            grant("transactional-id", format!("{name}-"), "prefixed", "Write");
        }
        if !row.follows.is_empty() {
            grant("group", kafka.tail_group(), "literal", "Describe");
        }
        for topic in row.writes {
            grant("topic", kafka.name_of(*topic), "literal", "Write");
        }
    }
    grants
}

pub(crate) fn print(args: &Acls, kafka: &KafkaConfig) -> Result<()> {
    let grants = grants(args, kafka);
    if args.json {
        return output::line(format_args!("{}", serde_json::to_string_pretty(&grants)?));
    }
    output::text(&script(&grants, &kafka.bootstrap))
}

/// One command for what one principal may do alike.
fn script(grants: &[Grant], bootstrap: &str) -> String {
    let mut text = format!(
        "#!/bin/sh\n# What each part of Duet has to be allowed. As a principal that may alter the cluster, whose credentials are in admin.properties.\nset -eu\nacls() {{ kafka-acls.sh --bootstrap-server {} --command-config admin.properties --add \"$@\"; }}\n",
        quoted(bootstrap)
    );
    let mut commands: Vec<(&Grant, BTreeMap<&str, Vec<&str>>)> = Vec::new();
    for grant in grants {
        let alike = |own: &Grant| {
            (&own.principal, own.pattern, own.operation)
                == (&grant.principal, grant.pattern, grant.operation)
        };
        let at = commands.iter().position(|(own, _)| alike(own)).unwrap_or(commands.len());
        if at == commands.len() {
            commands.push((grant, BTreeMap::new()));
        }
        if let Some((_, resources)) = commands.get_mut(at) {
            resources.entry(grant.resource).or_default().push(&grant.name);
        }
    }
    let mut service = "";
    for (grant, resources) in commands {
        if grant.service != service {
            service = grant.service;
            text.push_str(&format!("\n# {service}\n"));
        }
        text.push_str(&format!(
            "acls --allow-principal {} --operation {}",
            quoted(&grant.principal),
            grant.operation
        ));
        for (resource, names) in resources {
            for name in names {
                text.push_str(&format!(" --{resource} {}", quoted(name)));
            }
        }
        if grant.pattern == "prefixed" {
            text.push_str(" --resource-pattern-type prefixed");
        }
        text.push('\n');
    }
    text
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::SERVICES;

    fn args(service: Option<&str>) -> Acls {
        Acls {
            principal_prefix: "User:CN=it's ".to_owned(),
            service: service.map(str::to_owned),
            json: false,
            kafka: cli::Kafka::default(),
        }
    }

    #[test]
    fn every_service_has_a_row_and_only_prepare_and_replay_read_originals() {
        let rows = rows();
        for service in &SERVICES {
            assert!(rows.iter().any(|row| row.name == service.name), "{}", service.name);
        }
        let all = |row: &Row| [row.reads, &row.follows[..]].concat();
        let read = rows.iter().filter(|row| all(row).contains(&Topic::Images));
        assert_eq!(read.map(|row| row.name).collect::<Vec<_>>(), ["prepare", "replay"]);
    }

    #[test]
    fn a_replay_may_write_its_own_topic_alone() {
        let grants = grants(&args(Some("replay")), &KafkaConfig::default());
        let writes = grants.iter().filter(|grant| grant.operation == "Write");
        let written: Vec<_> = writes.map(|grant| grant.name.as_str()).collect();
        assert_eq!(written, ["duet.shadow.reports", "duet.shadow-replay-"]);
    }

    #[test]
    fn a_service_is_allowed_what_it_does_and_no_more() {
        let kafka = KafkaConfig::default();
        let told: Vec<_> = grants(&args(Some("prepare")), &kafka)
            .into_iter()
            .map(|grant| {
                format!("{} {} {} {}", grant.operation, grant.resource, grant.pattern, grant.name)
            })
            .collect();
        assert_eq!(
            told,
            [
                "Read topic literal duet.images",
                "Read group literal duet-prepare",
                "Write transactional-id prefixed duet-prepare-",
                "Write topic literal duet.prepared",
                "Write topic literal duet.out-of-scope",
                "Write topic literal duet.dead-letters",
            ]
        );
        let loose = KafkaConfig { delivery: Delivery::AtLeastOnce, ..kafka };
        let told = grants(&args(Some("prepare")), &loose);
        assert!(told.iter().all(|grant| grant.resource != "transactional-id"));
    }

    #[test]
    fn the_script_quotes_what_a_shell_would_read_otherwise() {
        let kafka = KafkaConfig::default();
        let text = script(&grants(&args(Some("publish")), &kafka), &kafka.bootstrap);
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("acls --allow")).collect();
        assert_eq!(
            lines,
            [
                r"acls --allow-principal 'User:CN=it'\''s publish' --operation Read --group duet-publish --topic duet.assessed --topic duet.cleared --topic duet.out-of-scope",
                r"acls --allow-principal 'User:CN=it'\''s publish' --operation Write --transactional-id duet-publish- --resource-pattern-type prefixed",
                r"acls --allow-principal 'User:CN=it'\''s publish' --operation Write --topic duet.reports --topic duet.annotated --topic duet.dead-letters",
            ]
        );
    }
}
