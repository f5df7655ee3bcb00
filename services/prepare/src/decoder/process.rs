//! One child process, seen from the pool.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use duet_telemetry::metrics;
use tokio::net::unix::pipe;

use super::wire::{self, Answer, MAX_ANSWER, MAX_PICTURE, Order};

/// What Rust prints before it ends a process that is given no memory.
const NO_MEMORY: &[u8] = b"memory allocation of ";

/// How to start a child process: `program arguments…` has to call [`work`](super::work).
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Launch {
    /// This same program with `arguments`, also where its file was replaced since it was started.
    pub fn this_program(arguments: &[&str]) -> Self {
        Self {
            program: "/proc/self/exe".into(),
            arguments: arguments.iter().map(|&own| own.to_owned()).collect(),
        }
    }
}

/// A running child process. Dropping it ends it.
pub(super) struct Process {
    child: Child,
    files: pipe::Sender,
    answers: pipe::Receiver,
    /// Gives whether it complained of memory, once it has ended.
    complaints: Option<thread::JoinHandle<bool>>,
    /// CPU time that its answers told of.
    counted: Duration,
}

/// How a child process ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) status: io::Result<ExitStatus>,
    pub(super) out_of_memory: bool,
    /// CPU time that no answer told of.
    pub(super) cpu: Duration,
}

impl Process {
    /// Starts a child process with nothing of ours: no variables, no folder, no process group that Ctrl-C reaches. Blocks for some
    /// milliseconds.
    pub(super) fn spawn(launch: &Launch) -> io::Result<Self> {
        let mut child = Command::new(&launch.program)
            .args(&launch.arguments)
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        metrics().decoder_workers.inc();
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let connect = || -> io::Result<_> {
            let (Some(input), Some(output), Some(complaints)) = pipes else {
                return Err(io::Error::other("a child process without pipes"));
            };
            let files = pipe::Sender::from_owned_fd(OwnedFd::from(input))?;
            let answers = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
            let listen = thread::Builder::new().name("decoder-stderr".to_owned());
            let complaints = listen.spawn(move || complained_of_memory(complaints))?;
            Ok((files, answers, complaints))
        };
        match connect() {
            Ok((files, answers, complaints)) => {
                let complaints = Some(complaints);
                Ok(Self { child, files, answers, complaints, counted: Duration::ZERO })
            }
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Gives the order and waits until it is taken.
    pub(super) async fn begin(&mut self, order: &Order) -> io::Result<()> {
        let order = serde_json::to_vec(order)?;
        wire::send(&mut self.files, &order).await?;
        wire::receive(&mut self.answers, 0).await.map(drop)
    }

    /// Hands over a file and waits for its answer and picture. After an error, or where this is given up, the process has to
    /// end: nobody knows what it would say next.
    pub(super) async fn decode(&mut self, file: &[u8]) -> io::Result<(Answer, Vec<u8>)> {
        wire::send(&mut self.files, file).await?;
        let head = wire::receive(&mut self.answers, MAX_ANSWER).await?;
        let picture = wire::receive(&mut self.answers, MAX_PICTURE).await?;
        let answer: Answer = serde_json::from_slice(&head)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.counted += Duration::from_nanos(answer.cpu_nanos);
        Ok((answer, picture))
    }

    /// Whether it runs.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it where it has not ended by itself. Blocks for as long as the kernel needs to free its memory.
    pub(super) fn end(mut self) -> End {
        let cpu = cpu_of(self.child.id()).unwrap_or_default().saturating_sub(self.counted);
        // One that is ending by itself keeps its own status.
        let status = self.child.kill().and_then(|()| self.child.wait());
        let out_of_memory =
            self.complaints.take().and_then(|own| own.join().ok()).unwrap_or_default();
        End { status, out_of_memory, cpu }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.child);
        metrics().decoder_workers.dec();
    }
}

fn end(child: &mut Child) {
    // Either fails only where it has ended and been waited for.
    let _ended = child.kill().and_then(|()| child.wait());
}

/// Reads what a child process says to its end, and forgets it: it may quote the file.
fn complained_of_memory(mut stream: impl io::Read) -> bool {
    let (mut found, mut seen, mut buffer) = (false, Vec::new(), [0; 4096]);
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            break;
        }
        seen.extend_from_slice(buffer.get(..count).unwrap_or_default());
        found |= seen.windows(NO_MEMORY.len()).any(|window| window == NO_MEMORY);
        // The words may come in two pieces.
        seen.drain(..seen.len().saturating_sub(NO_MEMORY.len()));
    }
    found
}

/// CPU time of a process that was not waited for yet (proc(5): utime and stime, in hundredths of a second).
fn cpu_of(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in brackets, which may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks.saturating_mul(10)))
}
