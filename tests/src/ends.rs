//! What became of the images that were fed in.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use duet_case::{Case, CaseId, DeadLetterHeader, Topic};
use duet_transport::{Archive, Broker, Record, Source, Start};

/// Reads along where images come to their ends.
pub struct Ends {
    source: Box<dyn Source>,
    /// Every report, by the case's id.
    pub reports: BTreeMap<CaseId, Vec<Case>>,
    /// Every annotated picture, by the case's id.
    pub annotated: BTreeMap<String, Vec<Bytes>>,
    /// Every dead letter.
    pub dead_letters: Vec<Record>,
}

impl Ends {
    /// Begins to read, with what is sent from now on.
    ///
    /// # Errors
    ///
    /// Where the broker does not let us.
    pub async fn follow(broker: &dyn Broker) -> Result<Self> {
        let topics = [Topic::Reports, Topic::Annotated, Topic::DeadLetters];
        Ok(Self {
            source: broker.tail(&topics, Start::End).await?,
            reports: BTreeMap::new(),
            annotated: BTreeMap::new(),
            dead_letters: Vec::new(),
        })
    }

    /// Every report that is there now.
    ///
    /// # Errors
    ///
    /// Where what is there cannot be read.
    pub async fn all_reports(broker: &dyn Archive) -> Result<Vec<Case>> {
        let mut history = broker.history(Topic::Reports, None).await?;
        let mut reports = Vec::new();
        while let Some(records) = history.next(100).await? {
            for record in records {
                reports.push(Case::from_json(&record.value).context("a report is not a Case")?);
            }
        }
        Ok(reports)
    }

    /// How many images came to an end.
    pub fn count(&self) -> usize {
        self.reports.values().map(Vec::len).sum::<usize>() + self.dead_letters.len()
    }

    /// Reads until `count` images came to an end, `limit` at most.
    ///
    /// # Errors
    ///
    /// Where what comes cannot be read.
    pub async fn wait_for(&mut self, count: usize, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.count() < count && Instant::now() < deadline {
            self.read().await?;
        }
        Ok(())
    }

    /// Reads what else there is until nothing has come for a while: what came twice would be here.
    ///
    /// # Errors
    ///
    /// Where what comes cannot be read.
    pub async fn settle(&mut self) -> Result<()> {
        let mut quiet = 0;
        while quiet < 4 {
            quiet = if self.read().await? == 0 { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<usize> {
        let records = self.source.poll(100, Duration::from_millis(20)).await?;
        let count = records.len();
        for record in records {
            match record.origin.topic {
                Topic::Reports => {
                    let case = Case::from_json(&record.value).context("a report is not a Case")?;
                    self.reports.entry(case.id.clone()).or_default().push(case);
                }
                Topic::Annotated => {
                    let id = record.headers.text("ce_subject").context("no ce_subject")?;
                    self.annotated.entry(id.to_owned()).or_default().push(record.value);
                }
                _ => self.dead_letters.push(record),
            }
        }
        Ok(count)
    }

    /// The error classes of the dead letters that hold `bytes`.
    pub fn dead_letters_of(&self, bytes: &[u8]) -> Vec<&str> {
        let held = self.dead_letters.iter().filter(|record| record.value == bytes);
        held.map(|record| record.headers.text(DeadLetterHeader::CLASS).unwrap_or("none")).collect()
    }

    /// The reports on `bytes`.
    pub fn reports_on(&self, bytes: &[u8]) -> &[Case] {
        self.reports.get(&CaseId::of_input(bytes)).map_or(&[], Vec::as_slice)
    }
}
