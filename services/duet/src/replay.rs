//! `duet replay`: what was reported, through other models or thresholds, beside production.
//!
//! It reads `reports` (or `images`) in no group, and production's blob store; it writes into the folder `--out`, heat
//! maps among it, and with `--shadow` into topics of its own. Nothing of production is written.

mod models;
mod origin;
mod page;
mod stages;
mod summary;
mod view;

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use chrono::Utc;
use duet_blob::BlobStore;
use duet_case::{Case, Topic};
use duet_stage::case_record;
use duet_transport::{Archive as _, KafkaBroker, KafkaConfig, Writer};
use indicatif::ProgressBar;

use crate::{
    Usage, cli,
    config::Config,
    dead_letters::{bar, connect},
    output, places,
    process::{Signals, group_of},
    times,
};
use models::Lineup;
use origin::{Input, Origin, Span};
use page::{Largest, Lines, Record};
use stages::Stages;
use summary::Summary;
use view::{Difference, View};

/// What the topics of shadow runs are called by, after production's prefix.
const SHADOW: &str = "shadow.";
/// What `ce_source` calls this command.
pub(crate) const NAME: &str = "replay";

pub(crate) async fn run(args: &cli::Replay, config: &Config) -> Result<()> {
    let span = span(args)?;
    let mut lineup = Lineup::of(args, config).await?;
    fs::create_dir_all(&args.out)
        .with_context(|| format!("the folder {} cannot be made", args.out.display()))?;
    let broker = connect(config).await?;
    let shadow = match args.shadow {
        true => Some(Shadow::open(&config.settings.kafka).await?),
        false => None,
    };
    let blobs = blobs(&args.out, config)?;
    let stages = Stages::new(&mut lineup, &blobs)?;
    let bar = bar();
    let origin = match args.images {
        true => Origin::images(&broker, span, config, &blobs, &bar).await?,
        false => Origin::reports(&broker, span).await?,
    };
    let mut replay = Replay {
        stages,
        lineup,
        shadow,
        summary: Summary::default(),
        lines: Lines::create(&args.out)?,
        largest: Vec::new(),
        kept: args.pictures,
    };
    replay.all(origin, args.limit.unwrap_or(u64::MAX), &bar).await?;
    bar.finish_and_clear();
    replay.finish(args, span).await
}

fn span(args: &cli::Replay) -> Result<Span, Usage> {
    let time = |flag: &str, text: &str| {
        times::parse(text).map_err(|how| Usage(format!("{flag} {text:?}: {how}")))
    };
    let from = time("--from", &args.from)?;
    let until = args.until.as_deref().map_or(Ok(Utc::now()), |text| time("--until", text))?;
    if from >= until {
        return Err(Usage(format!("--until is {until}, which is not after --from {from}")));
    }
    Ok(Span { from, until })
}

/// Production's store, read; what is drawn anew goes into the folder.
fn blobs(out: &Path, config: &Config) -> Result<BlobStore> {
    let folder = fs::canonicalize(out)?.join("blobs");
    let own = BlobStore::open(&format!("file://{}", folder.display()))?;
    Ok(own.over(BlobStore::open(&places::blob_url(config)?)?))
}

/// Where shadow runs write, beside `production`.
pub(crate) fn shadow_of(production: &KafkaConfig) -> KafkaConfig {
    let topic_prefix = format!("{}{SHADOW}", production.topic_prefix);
    KafkaConfig { topic_prefix, ..production.clone() }
}

/// The topics of shadow runs.
struct Shadow {
    writer: Box<dyn Writer>,
    topic: String,
}

impl Shadow {
    /// Creates them where they are missing.
    async fn open(production: &KafkaConfig) -> Result<Self> {
        let config = shadow_of(production);
        let broker = KafkaBroker::connect(&config).await?;
        broker.create(&[Topic::Reports]).await?;
        // A name of its own, so that several replays may run.
        let name = format!("{}-{}", group_of(&config.topic_prefix, NAME), std::process::id());
        let writer = broker.writer(&name).await?;
        Ok(Self { writer, topic: config.name_of(Topic::Reports) })
    }

    async fn write(&mut self, cases: &[&Case]) -> Result<()> {
        let mut records = Vec::new();
        for case in cases {
            let triage = case.triage.iter().map(|own| &own.model);
            let specialists = case.assessment.iter().flat_map(|own| &own.models);
            let models: Vec<_> = triage.chain(specialists).cloned().collect();
            let record = case_record(case, Topic::Reports, NAME, &models)
                .map_err(|reason| anyhow::anyhow!(reason.message))?;
            records.push(record);
        }
        if !records.is_empty() {
            let written = self.writer.write(records).await;
            written.with_context(|| format!("{} cannot be written", self.topic))?;
        }
        Ok(())
    }
}

/// One of the largest changes so far.
struct Kept {
    difference: Difference,
    before: Option<Case>,
    bare: Case,
    after: Case,
}

struct Replay {
    stages: Stages,
    lineup: Lineup,
    shadow: Option<Shadow>,
    summary: Summary,
    lines: Lines,
    /// The largest first.
    largest: Vec<Kept>,
    kept: usize,
}

impl Replay {
    async fn all(&mut self, mut origin: Origin, limit: u64, bar: &ProgressBar) -> Result<()> {
        let mut stop = Signals::new()?;
        while self.summary.compared < limit {
            let next = tokio::select! {
                () = stop.next() => bail!("stopped before the end; nothing was concluded, {} holds what was read so far", "changes.csv"),
                next = origin.next(&mut self.summary) => next?,
            };
            let Some(mut inputs) = next else { break };
            let left = usize::try_from(limit - self.summary.compared).unwrap_or(usize::MAX);
            inputs.truncate(left);
            self.chunk(inputs).await?;
            let (done, total) = origin.progress();
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(format!(
                "{} compared, {} changed",
                self.summary.compared, self.summary.changed
            ));
        }
        Ok(())
    }

    async fn chunk(&mut self, inputs: Vec<Input>) -> Result<()> {
        let cases = inputs.iter().map(|input| input.bare.clone()).collect();
        let mut replayed = Vec::with_capacity(inputs.len());
        for (input, result) in inputs.into_iter().zip(self.stages.run(cases).await?) {
            match result {
                Ok(case) => replayed.push((input, case)),
                Err(reason) => {
                    let why = match reason.class {
                        "blob_unusable" => {
                            "its picture is no longer in the blob store, or damaged".to_owned()
                        }
                        class => format!("{class}: {}", reason.message),
                    };
                    self.summary.leave_out(input.bare.id.as_str(), &why);
                }
            }
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.write(&replayed.iter().map(|(_, case)| case).collect::<Vec<_>>()).await?;
        }
        for (input, after) in replayed {
            self.compare(input, after)?;
        }
        Ok(())
    }

    fn compare(&mut self, input: Input, after: Case) -> Result<()> {
        let outcome = after.conclusion.as_ref().map(|own| own.outcome);
        let view = View::of(&after, outcome, &self.lineup.roles);
        let Some(difference) = view.against(&input.before) else {
            self.summary.same();
            return Ok(());
        };
        self.summary.add(&difference);
        self.lines.add(&after, &difference)?;
        let size = difference.size();
        let place = self.largest.partition_point(|own| own.difference.size() >= size);
        if place < self.kept {
            let Input { bare, report, .. } = input;
            self.largest.insert(place, Kept { difference, before: report, bare, after });
            self.largest.truncate(self.kept);
        }
        Ok(())
    }

    async fn finish(self, args: &cli::Replay, span: Span) -> Result<()> {
        let Self { stages, lineup, shadow, summary, lines, largest, .. } = self;
        lines.finish()?;
        let mut shown = Vec::new();
        for Kept { difference, before, bare, after } in largest {
            let before = match before {
                Some(report) => stages.picture(report).await.map_err(|reason| reason.message),
                // Without the report there is the picture alone.
                None => Err("the report was not kept in memory: see it on the page".to_owned()),
            };
            let case = bare.id.to_string();
            let after = stages.picture(after).await.map_err(|reason| reason.message);
            shown.push(Largest { case, difference, pictures: [before, after] });
        }
        let record = Record {
            from: span.from.to_rfc3339(),
            until: span.until.to_rfc3339(),
            origin: if args.images { "images" } else { "reports" },
            with: &lineup.told,
            shadow: shadow.map(|own| own.topic),
            summary: &summary,
            largest: &shown,
        };
        page::write(&args.out, &record)?;
        tell(&record, &args.out)
    }
}

fn tell(record: &Record<'_>, out: &Path) -> Result<()> {
    let summary = record.summary;
    for (title, counts) in [("decision", &summary.decisions), ("outcome", &summary.outcomes)] {
        for (turn, count) in counts {
            output::line(format_args!("{title}: {turn}: {count}"))?;
        }
    }
    if !summary.labels.is_empty() {
        let mut table =
            output::table(&["label", "changed", "came", "went", "mean change", "largest change"]);
        for (name, own) in &summary.labels {
            table.add_row([
                name.clone(),
                own.changed.to_string(),
                own.appeared.to_string(),
                own.gone.to_string(),
                format!("{:+.4}", own.mean_change),
                format!("{:+.4}", own.largest_change),
            ]);
        }
        output::line(format_args!("{table}"))?;
    }
    for largest in record.largest.iter().filter(|own| own.difference.has_turned()) {
        let [before, after] = largest.difference.outcome;
        let turned: Vec<_> = largest
            .difference
            .changes
            .iter()
            .filter(|change| change.is_finding() && change.has_turned())
            .map(|change| change.what.as_str())
            .collect();
        output::line(format_args!("{}: {before} -> {after}  {}", largest.case, turned.join(", ")))?;
    }
    for (why, own) in &summary.left_out {
        let among: Vec<_> = own.cases.iter().take(3).map(String::as_str).collect();
        output::note(format_args!("not replayed: {}: {why} ({})", own.count, among.join(", ")));
    }
    output::line(format_args!(
        "{} compared: {} unchanged, {} changed, {} turned; changes.csv, replay.json and report.html in {}",
        summary.compared,
        summary.unchanged,
        summary.changed,
        summary.turned,
        out.display()
    ))?;
    match &record.shadow {
        Some(topic) => output::line(format_args!("the replayed Cases are in {topic}")),
        None => {
            output::line(format_args!("no topic was written (--shadow writes the replayed Cases)"))
        }
    }
}
