//! Topics: creating the missing ones, and telling what is there.

use std::sync::Arc;

use duet_case::Topic;
use rdkafka::{
    admin::{
        AdminClient, AdminOptions, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication,
    },
    error::RDKafkaErrorCode as Code,
};

use super::{
    KafkaConfig,
    probe::{Probe, blocking, unusable},
    trouble::{Listener, Trouble},
};
use crate::{TopicDescription, TransportError};

/// A client that administers topics.
struct Admin {
    client: AdminClient<Listener>,
    options: AdminOptions,
    trouble: Arc<Trouble>,
}

impl Admin {
    fn open(config: &KafkaConfig) -> Result<Self, TransportError> {
        let trouble = Arc::new(Trouble::quiet(&config.bootstrap));
        let client = config
            .client()?
            .create_with_context(Listener::new(config, &trouble))
            .map_err(|error| unusable(&error))?;
        let limit = Some(config.request_timeout());
        let options = AdminOptions::new().operation_timeout(limit).request_timeout(limit);
        Ok(Self { client, options, trouble })
    }
}

/// Creates those of `topics` that are missing and returns them.
pub(super) async fn create(
    config: &KafkaConfig,
    topics: &[Topic],
) -> Result<Vec<Topic>, TransportError> {
    let (asked, topics) = (config.clone(), topics.to_vec());
    let found = blocking(move || Probe::open(&asked)?.find(&topics)).await?;
    let missing: Vec<_> = found.into_iter().filter(|found| found.partitions.is_empty()).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    if config.needs_tokens() {
        let reason = "topics cannot be created by OAUTHBEARER, since the client asks for no token when it administers: create them as a principal with another mechanism or a certificate, or by kafka-topics".to_owned();
        return Err(TransportError::Configuration { reason });
    }
    let retention = (config.guarded_retention_hours * 3_600_000).to_string();
    let max_bytes: Vec<String> =
        missing.iter().map(|found| config.topic_max_bytes(found.topic).to_string()).collect();
    let new: Vec<NewTopic<'_>> = missing
        .iter()
        .zip(&max_bytes)
        .map(|(found, max_bytes)| {
            let replication = TopicReplication::Fixed(config.replication_factor);
            let new = NewTopic::new(&found.name, config.partitions, replication)
                .set("max.message.bytes", max_bytes);
            let new =
                if found.topic.is_compacted() { new.set("cleanup.policy", "compact") } else { new };
            if found.topic.is_guarded() { new.set("retention.ms", &retention) } else { new }
        })
        .collect();
    let admin = Admin::open(config)?;
    let results = admin
        .client
        .create_topics(&new, &admin.options)
        .await
        .map_err(|error| admin.trouble.explain(&error))?;
    let mut created = Vec::new();
    for (found, result) in missing.iter().zip(results) {
        match result {
            Ok(_) => created.push(found.topic),
            // Another process was quicker.
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((_, Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)) => {
                let reason = format!("this principal may not create topic {}", found.name);
                return Err(TransportError::Refused { reason });
            }
            Err((_, code)) => {
                let reason = format!("topic {} could not be created: {code}", found.name);
                return Err(TransportError::Client { reason });
            }
        }
    }
    // Returns when the cluster knows them.
    let (config, topics) = (config.clone(), created.clone());
    blocking(move || {
        Probe::open(&config)?.require_within(config.request_timeout(), &topics).map(|_| ())
    })
    .await?;
    Ok(created)
}

/// The largest record that `topic` takes, where the broker tells.
pub(super) async fn max_message_bytes(
    config: &KafkaConfig,
    topic: Topic,
) -> Result<Option<usize>, TransportError> {
    if config.needs_tokens() {
        return Ok(None); // see `create`
    }
    let admin = Admin::open(config)?;
    let name = config.name_of(topic);
    let told = admin
        .client
        .describe_configs(&[ResourceSpecifier::Topic(&name)], &admin.options)
        .await
        .map_err(|error| admin.trouble.explain(&error))?;
    match told.into_iter().next() {
        Some(Ok(resource)) => Ok(resource
            .entries
            .into_iter()
            .find(|entry| entry.name == "max.message.bytes")
            .and_then(|entry| entry.value?.parse().ok())),
        Some(Err(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)) => {
            let reason = format!("this principal may not see the settings of topic {name}");
            Err(TransportError::Refused { reason })
        }
        _ => Ok(None),
    }
}

/// What is there under every topic's name.
pub(super) async fn describe(
    config: &KafkaConfig,
) -> Result<Vec<TopicDescription>, TransportError> {
    let asked = config.clone();
    let mut descriptions = blocking(move || {
        let probe = Probe::open(&asked)?;
        let mut descriptions = Vec::new();
        for found in probe.find(&Topic::ALL)? {
            let mut records = 0;
            for partition in &found.partitions {
                let (low, high) = probe.watermarks(&found.name, *partition)?;
                records += high - low;
            }
            descriptions.push(TopicDescription {
                topic: found.topic,
                name: found.name,
                partitions: found.partitions.len(),
                records,
                settings: Vec::new(),
            });
        }
        Ok(descriptions)
    })
    .await?;

    let present: Vec<&mut TopicDescription> =
        descriptions.iter_mut().filter(|description| description.partitions > 0).collect();
    // See `create`.
    if present.is_empty() || config.needs_tokens() {
        return Ok(descriptions);
    }
    let names: Vec<String> = present.iter().map(|description| description.name.clone()).collect();
    let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let admin = Admin::open(config)?;
    let told = admin
        .client
        .describe_configs(&resources, &admin.options)
        .await
        .map_err(|error| admin.trouble.explain(&error))?;
    for (description, resource) in present.into_iter().zip(told) {
        // A principal that may not see a topic's settings still sees the rest.
        let entries = resource.map(|resource| resource.entries).unwrap_or_default();
        description.settings = entries
            .into_iter()
            .filter(|entry| entry.source == ConfigSource::DynamicTopic)
            .map(|entry| (entry.name, entry.value.unwrap_or_default()))
            .collect();
        description.settings.sort();
    }
    Ok(descriptions)
}
