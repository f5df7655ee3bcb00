//! Services as processes of their own, as they run in a cluster: the built binary, one process a service.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use duet_transport::KafkaConfig;

use crate::Guarded;

/// The services between `images` and `reports`.
pub const STAGES: [&str; 4] = ["prepare", "triage", "specialist", "publish"];

/// Running services. Dropping it stops them.
pub struct Fleet {
    /// By number, which is never given again.
    services: BTreeMap<usize, Service>,
    started: usize,
    folder: PathBuf,
    config: PathBuf,
    binary: PathBuf,
    variables: Vec<(&'static str, String)>,
}

struct Service {
    name: String,
    process: Guarded,
    port: u16,
}

impl Fleet {
    /// A fleet without a service yet. Its logs, its blobs and its key are in `folder`.
    ///
    /// # Errors
    ///
    /// Where the binary was not built.
    pub fn new(kafka: &KafkaConfig, folder: &Path) -> Result<Self> {
        Self::with(kafka, folder, "")
    }

    /// As [`Fleet::new`], with further sections of the configuration, as TOML.
    ///
    /// # Errors
    ///
    /// As [`Fleet::new`].
    pub fn with(kafka: &KafkaConfig, folder: &Path, sections: &str) -> Result<Self> {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        Self::with_models(kafka, folder, &models, sections)
    }

    /// As [`Fleet::with`], with another folder of models.
    ///
    /// # Errors
    ///
    /// As [`Fleet::new`].
    pub fn with_models(
        kafka: &KafkaConfig,
        folder: &Path,
        models: &Path,
        sections: &str,
    ) -> Result<Self> {
        let config = format!(
            "[kafka]\n{}\n[blob]\nurl = \"file://{}\"\n[prepare]\npseudonym_key_file = \"{}\"\nsealing_key_file = \"{}\"\n[models]\ndir = \"{}\"\n{sections}\n",
            toml::to_string(kafka).context("the Kafka configuration cannot be written")?,
            folder.join("blobs").display(),
            folder.join("pseudonym.key").display(),
            folder.join("sealing.keys").display(),
            models.display(),
        )
        .replace("[properties]", "[kafka.properties]")
        .replace("[tls]", "[kafka.tls]")
        .replace("[sasl]", "[kafka.sasl]");
        let path = folder.join("duet.toml");
        fs::create_dir_all(folder.join("blobs"))?;
        fs::write(&path, config)?;
        Ok(Self {
            services: BTreeMap::new(),
            started: 0,
            folder: folder.to_owned(),
            config: path,
            binary: binary()?,
            variables: Vec::new(),
        })
    }

    /// Starts everything from now on with these variables as well.
    pub fn set_variables(&mut self, variables: Vec<(&'static str, String)>) {
        self.variables = variables;
    }

    /// Starts `service` and returns its number. It is not waited for.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub fn start(&mut self, service: &str) -> Result<usize> {
        self.start_with(service, &[], &[])
    }

    /// As [`Fleet::start`], with variables of its own and arguments before `run`.
    ///
    /// # Errors
    ///
    /// As [`Fleet::start`].
    pub fn start_with(
        &mut self,
        service: &str,
        variables: &[(&str, &str)],
        arguments: &[&str],
    ) -> Result<usize> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let number = self.started;
        self.started += 1;
        let name = format!("{service}-{number}");
        let mut command = self.command(&[arguments, &["run", service]].concat());
        command.envs(variables.iter().copied());
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        let log = self.folder.join(format!("{name}.log"));
        let process = Guarded::start(&name, &command, &log, None)?;
        self.services.insert(number, Service { name, process, port });
        Ok(number)
    }

    /// `duet` with the fleet's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&self.config).args(arguments);
        // By this a service, and what it starts, is known as this fleet's.
        command.current_dir(&self.folder);
        // A variable of the caller's would override the fleet's configuration.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("DUET_") {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (*name, value)));
        command
    }

    /// Waits until every service says that it is ready.
    ///
    /// # Errors
    ///
    /// With the end of a service's log where it is not.
    pub fn wait_until_ready(&self) -> Result<()> {
        for service in self.services.values() {
            let limit = Duration::from_secs(120);
            service
                .process
                .wait_until(limit, |_| {
                    get(service.port, "/readyz").is_ok_and(|(status, _)| status == 200)
                })
                .with_context(|| format!("{} is not ready", service.name))?;
        }
        Ok(())
    }

    /// What every service tells at `path`.
    ///
    /// # Errors
    ///
    /// Where one does not answer with 200.
    pub fn get_all(&self, path: &str) -> Result<Vec<(&str, String)>> {
        let ask = |service: &'_ Service| match get(service.port, path) {
            Ok((200, body)) => Ok(body),
            Ok((status, body)) => bail!("{} answers {path} with {status}: {body}", service.name),
            Err(error) => Err(error.context(service.name.clone())),
        };
        self.services.values().map(|s| Ok((s.name.as_str(), ask(s)?))).collect()
    }

    /// Where a service listens, for instance `http://127.0.0.1:40123`.
    pub fn address(&self, number: usize) -> Option<String> {
        self.services.get(&number).map(|service| format!("http://127.0.0.1:{}", service.port))
    }

    /// Whatever a service answers at `path`: status and body.
    ///
    /// # Errors
    ///
    /// Where nobody answers.
    pub fn ask(&self, number: usize, path: &str) -> Result<(u16, String)> {
        get(self.services.get(&number).context("there is no such service")?.port, path)
    }

    /// The process of a service.
    pub fn process(&self, number: usize) -> Option<&Guarded> {
        self.services.get(&number).map(|service| &service.process)
    }

    /// Every service that was not taken out: its number, its name and its process.
    pub fn processes(&self) -> impl Iterator<Item = (usize, &str, &Guarded)> {
        self.services.iter().map(|(number, s)| (*number, s.name.as_str(), &s.process))
    }

    /// Whether a service says that it is ready.
    pub fn is_ready(&self, number: usize) -> bool {
        let service = self.services.get(&number);
        service.is_some_and(|s| get(s.port, "/readyz").is_ok_and(|(status, _)| status == 200))
    }

    /// What one service tells at `path`.
    ///
    /// # Errors
    ///
    /// Where it does not answer with 200.
    pub fn get(&self, number: usize, path: &str) -> Result<String> {
        let service = self.services.get(&number).context("there is no such service")?;
        match get(service.port, path)? {
            (200, body) => Ok(body),
            (status, body) => bail!("{} answers {path} with {status}: {body}", service.name),
        }
    }

    /// Sends `body` to one service at `path`: the answer's status and body.
    ///
    /// # Errors
    ///
    /// Where nobody answers.
    pub fn post(&self, number: usize, path: &str, body: &[u8]) -> Result<(u16, String)> {
        let service = self.services.get(&number).context("there is no such service")?;
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, service.port))?;
        write!(
            stream,
            "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/dicom\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(body)?;
        answer(stream, Duration::from_secs(60))
    }

    /// The answer of one service at `path`, as it comes.
    ///
    /// # Errors
    ///
    /// Where nobody answers.
    pub fn open(&self, number: usize, path: &str) -> Result<TcpStream> {
        let service = self.services.get(&number).context("there is no such service")?;
        ask(service.port, path)
    }

    /// Takes a service out of the fleet, stopped in an orderly way where it still runs, and returns its exit code.
    ///
    /// # Errors
    ///
    /// Where there is none of that number, or it cannot be waited for.
    pub fn take_out(&mut self, number: usize) -> Result<Option<i32>> {
        self.services.remove(&number).context("there is no such service")?.process.stop()
    }

    /// The names of the services that have ended.
    pub fn dead(&self) -> Vec<&str> {
        let dead = self.services.values().filter(|service| !service.process.is_running());
        dead.map(|service| service.name.as_str()).collect()
    }

    /// Stops every service in an orderly way and returns the exit code of each.
    ///
    /// # Errors
    ///
    /// Where one cannot be waited for.
    pub fn stop(self) -> Result<Vec<(String, Option<i32>)>> {
        self.services.into_values().map(|s| Ok((s.name, s.process.stop()?))).collect()
    }
}

/// The processes that a stopped fleet has left behind in its `folder`, a service's child that outlived it for instance.
/// They have ten seconds to end.
///
/// # Errors
///
/// Where the processes of this machine cannot be listed.
pub(crate) fn orphans(folder: &Path) -> Result<Vec<String>> {
    let folder = folder.canonicalize()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut left = Vec::new();
        for process in fs::read_dir("/proc")?.flatten() {
            // Processes end while they are listed, and others' are not ours to see.
            if fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == folder) {
                let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                left.push(format!("{} {command}", process.file_name().to_string_lossy()));
            }
        }
        if left.is_empty() || Instant::now() >= deadline {
            return Ok(left);
        }
        sleep(Duration::from_millis(50));
    }
}

/// The binary that was built beside the tests.
///
/// # Errors
///
/// Where it was not built.
pub fn binary() -> Result<PathBuf> {
    let own = env::current_exe()?;
    // target/debug/deps/e2e-… or target/debug/examples/…
    let folder = own.parent().and_then(Path::parent).context("where are we?")?;
    let binary = folder.join("duet");
    if !binary.is_file() {
        bail!("{} was not built; run `cargo build -p duet` (`make test` does)", binary.display());
    }
    Ok(binary)
}

fn ask(port: u16, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    Ok(stream)
}

/// GET over loopback: status and body.
fn get(port: u16, path: &str) -> Result<(u16, String)> {
    answer(ask(port, path)?, Duration::from_secs(10))
}

/// Status and body of an answer whose pieces come within `limit` each.
fn answer(mut stream: TcpStream, limit: Duration) -> Result<(u16, String)> {
    stream.set_read_timeout(Some(limit))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no HTTP status")?.parse()?;
    Ok((status, body.to_owned()))
}
