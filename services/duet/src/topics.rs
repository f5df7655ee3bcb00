//! `duet topics`.

use anyhow::Result;
use duet_case::Topic;
use duet_transport::{Broker as _, KafkaBroker};

use crate::{acls, cli::Topics, config::Config, output};

pub(crate) async fn run(command: &Topics, config: &Config) -> Result<()> {
    let kafka = &config.settings.kafka;
    if let Topics::Acls(args) = command {
        return acls::print(args, kafka);
    }
    let broker = KafkaBroker::connect(kafka).await?;
    match command {
        Topics::Create(args) => {
            let created = broker.create_topics().await?;
            if args.json {
                let names: Vec<_> = created.iter().map(|topic| kafka.name_of(*topic)).collect();
                return output::line(format_args!("{}", serde_json::json!({ "created": names })));
            }
            let mut table = output::table(&["topic", ""]);
            for topic in Topic::ALL {
                let state = if created.contains(&topic) { "created" } else { "was there" };
                table.add_row([kafka.name_of(topic), state.to_owned()]);
            }
            output::line(format_args!("{table}"))
        }
        Topics::Describe(args) => {
            let described = broker.describe_topics().await?;
            if args.json {
                return output::line(format_args!("{}", serde_json::to_string_pretty(&described)?));
            }
            let mut table = output::table(&["topic", "partitions", "records", "settings"]);
            for topic in described {
                let settings: Vec<_> =
                    topic.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let partitions = match topic.partitions {
                    0 => "missing".to_owned(),
                    count => count.to_string(),
                };
                table.add_row([
                    topic.name,
                    partitions,
                    topic.records.to_string(),
                    settings.join("\n"),
                ]);
            }
            output::line(format_args!("{table}"))
        }
        Topics::Acls(_) => Ok(()), // needs no broker, see above
    }
}
