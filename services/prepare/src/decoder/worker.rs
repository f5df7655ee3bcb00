//! The child process: reads files, writes answers, and ends when nobody listens any more.

use std::{
    fs::File,
    io,
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::Duration,
};

use cpu_time::ProcessTime;
use duet_imaging::prepare;

use super::{
    answer, confine,
    wire::{self, Answer, Order},
};

/// Deep enough for decoders; nesting is capped before they see a file.
const STACK: usize = 8 << 20;

/// Longer than any order.
const MAX_ORDER: u64 = 1 << 16;

/// Why a decode worker ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It was not started by a decoder pool.
    #[error(
        "this is a part of `duet run prepare`, which starts it by itself: it reads files that are framed in a way of their own, and no order came"
    )]
    NoOrder,
    /// The system refuses the limits or the descriptors.
    #[error("the decode worker cannot confine itself")]
    Confine(#[source] io::Error),
    /// A pipe broke.
    #[error("the decode worker cannot talk to its pool")]
    Pipe(#[from] io::Error),
}

/// The work of a child process of [`DecoderPool`](super::DecoderPool), on standard input and output, until the input ends.
///
/// # Errors
///
/// Where it cannot confine itself or talk.
pub fn work() -> Result<(), WorkerError> {
    // What a decoder says when it panics may quote the file.
    std::panic::set_hook(Box::new(|_| {}));
    let mut input = io::stdin().lock();
    let order = wire::read(&mut input, MAX_ORDER)?.ok_or(WorkerError::NoOrder)?;
    let order: Order = serde_json::from_slice(&order).map_err(|_| WorkerError::NoOrder)?;
    let answers = confine::descriptors().map_err(WorkerError::Confine)?;
    confine::resources(order.memory_bytes).map_err(WorkerError::Confine)?;

    let most = order.limits.max_bytes;
    let (files, work) = sync_channel::<Vec<u8>>(0);
    let decoder = thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || answer_all(&order, &work, answers))
        .map_err(WorkerError::Confine)?;
    // This thread reads on while the other decodes, so that it sees at once when the pool is gone, and ends the process.
    while let Some(file) = wire::read(&mut input, most)? {
        if files.send(file).is_err() {
            break; // the other thread failed: its own error follows
        }
    }
    if decoder.is_finished() {
        return decoder.join().unwrap_or(Ok(()));
    }
    Ok(())
}

fn answer_all(
    order: &Order,
    files: &Receiver<Vec<u8>>,
    mut answers: File,
) -> Result<(), WorkerError> {
    wire::write(&mut answers, b"")?;
    let mut counted = used()?;
    for file in files {
        confine::cpu(counted, order.cpu_seconds).map_err(WorkerError::Confine)?;
        let (told, png) = answer::tell(prepare(&file, &order.limits));
        drop(file);
        let now = used()?;
        let cpu_nanos = u64::try_from(now.saturating_sub(counted).as_nanos()).unwrap_or(u64::MAX);
        counted = now;
        let head = serde_json::to_vec(&Answer { cpu_nanos, told }).map_err(io::Error::from)?;
        wire::write(&mut answers, &head)?;
        wire::write(&mut answers, &png)?;
    }
    Ok(())
}

/// CPU time of this process.
fn used() -> io::Result<Duration> {
    ProcessTime::try_now().map(|time| time.as_duration())
}
