//! Child processes that never outlive the tests, even where those are killed.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Runs the command after it and tells its pid; when its input ends, which it does when we end in whatever way,
/// stops the command, with force after ten seconds, and removes the folder that `$DUET_REMOVE` names.
const GUARD: &str = r#"
log=$1; shift
"$@" </dev/null >>"$log" 2>&1 &
pid=$!
echo $pid
cat >/dev/null
kill -CONT $pid 2>/dev/null
kill -TERM $pid 2>/dev/null
( sleep 10; kill -KILL $pid ) >/dev/null 2>&1 &
timer=$!
wait $pid
code=$?
kill $timer 2>/dev/null
if [ -n "$DUET_REMOVE" ]; then rm -rf "$DUET_REMOVE"; fi
exit $code
"#;

/// A child process. Dropping it stops it.
pub struct Guarded {
    name: String,
    guard: Child,
    /// Held open for as long as the process may live.
    leash: Option<ChildStdin>,
    pid: u32,
    log: PathBuf,
}

impl Guarded {
    /// Starts `command`, called `name` in messages, with its output appended to `log`. `remove` is deleted when the
    /// process has ended.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub fn start(name: &str, command: &Command, log: &Path, remove: Option<&Path>) -> Result<Self> {
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "guard"]).arg(log);
        guard.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guard.env(key, value),
                None => guard.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            guard.current_dir(folder);
        }
        if let Some(folder) = remove {
            guard.env("DUET_REMOVE", folder);
        }
        let mut guard = guard
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let leash = guard.stdin.take();
        let stdout = guard.stdout.take().context("the guard has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let pid = line.trim().parse().with_context(|| format!("{name} told no pid"))?;
        Ok(Self { name: name.to_owned(), guard, leash, pid, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        fs::read(&self.log)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        // The state follows the name, which is in brackets. A zombie waits for its guard.
        fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .ok()
            .and_then(|stat| stat.rsplit_once(')').map(|(_, rest)| !rest.starts_with(" Z")))
            .unwrap_or(false)
    }

    /// Sends it a signal, for instance `-KILL`.
    ///
    /// # Errors
    ///
    /// Where it runs no more.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill").args([signal, &self.pid.to_string()]).status()?;
        if !status.success() {
            bail!("{} (pid {}) takes no signal {signal}", self.name, self.pid);
        }
        Ok(())
    }

    /// Waits until `is_ready`, while it runs and for `limit` at most.
    ///
    /// # Errors
    ///
    /// With the end of its output, where it ended or is not ready in time.
    pub fn wait_until(
        &self,
        limit: Duration,
        mut is_ready: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !is_ready(self) {
            let trouble = if !self.is_running() {
                "ended by itself"
            } else if Instant::now() > deadline {
                "was not ready in time"
            } else {
                sleep(Duration::from_millis(50));
                continue;
            };
            let output = self.output();
            let tail: Vec<_> = output.lines().rev().take(30).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            bail!("{} {trouble}; the end of its output:\n{}", self.name, tail.join("\n"));
        }
        Ok(())
    }

    /// Stops it in an orderly way and returns its exit code.
    ///
    /// # Errors
    ///
    /// Where it cannot be waited for.
    pub fn stop(mut self) -> Result<Option<i32>> {
        drop(self.leash.take());
        Ok(self.guard.wait()?.code())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.leash.take());
        // The guard ends within ten seconds, whatever the process does.
        let _code = self.guard.wait();
    }
}
