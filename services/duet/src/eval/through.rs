//! Every row's image through one piece of work, on all cores, in order, with progress.

use std::{
    io::{IsTerminal as _, stderr},
    time::{Duration, Instant},
};

use anyhow::Result;
use duet_evaluation::Row;
use duet_stage::compute;
use futures::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, Job};
use crate::output;

/// Where there is no terminal to draw a bar on, a line is written this often.
const TOLD_EVERY: Duration = Duration::from_secs(15);

/// How far the work is: a bar on a terminal, else a line now and then.
pub(super) struct Progress {
    bar: ProgressBar,
    total: usize,
    done: usize,
    told: Instant,
}

impl Progress {
    pub(super) fn new(total: usize) -> Self {
        let bar = ProgressBar::new(total as u64);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:32} {pos}/{len} images {per_sec} {eta}")
        {
            bar.set_style(style);
        }
        Self { bar, total, done: 0, told: Instant::now() }
    }

    pub(super) fn step(&mut self) {
        self.done += 1;
        self.bar.inc(1);
        if !stderr().is_terminal() && self.told.elapsed() >= TOLD_EVERY {
            self.told = Instant::now();
            output::note(format_args!("{} of {} images", self.done, self.total));
        }
    }

    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// What `work` makes of each row's image, in the rows' order; `None` where the image could not be read, which the
/// failures say.
///
/// # Errors
///
/// Where an image is missing: the table and the images do not belong together.
pub(super) async fn through<T, W>(
    job: &mut Job<'_>,
    work: W,
) -> Result<(Vec<Option<T>>, Vec<Failure>)>
where
    T: Send + 'static,
    W: Fn(Vec<u8>) -> Result<T, String> + Clone + Send + 'static,
{
    let rows = &job.table.rows;
    let images = &mut job.images;
    let at_once = 2 * std::thread::available_parallelism().map_or(1, usize::from);
    let mut done = stream::iter(rows)
        .map(|row| {
            let bytes = images.read(&row.file);
            let work = work.clone();
            async move {
                let bytes = bytes?;
                let seen = compute::run(move || work(bytes)).await;
                anyhow::Ok(seen.unwrap_or_else(|crashed| Err(crashed.to_string())))
            }
        })
        .buffered(at_once);
    let mut progress = Progress::new(rows.len());
    let (mut seen, mut failed) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let Some(own) = done.next().await else { break };
        seen.push(note(&mut failed, row, own?));
        progress.step();
    }
    progress.finish();
    Ok((seen, failed))
}

/// Keeps the reason of what failed.
pub(super) fn note<T>(failed: &mut Vec<Failure>, row: &Row, seen: Result<T, String>) -> Option<T> {
    match seen {
        Ok(seen) => Some(seen),
        Err(reason) => {
            failed.push(Failure { file: row.file.clone(), reason });
            None
        }
    }
}
