//! Services as processes of their own, as they run in a cluster: the built binary, one process a service.

use std::{
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use duet_transport::KafkaConfig;

use crate::Guarded;

/// The services between `images` and `reports`.
pub const STAGES: [&str; 4] = ["prepare", "triage", "specialist", "publish"];

/// Running services. Dropping it stops them.
pub struct Fleet {
    services: Vec<Service>,
    folder: PathBuf,
    config: PathBuf,
    binary: PathBuf,
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
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        let config = format!(
            "[kafka]\n{}\n[blob]\nurl = \"file://{}\"\n[prepare]\npseudonym_key_file = \"{}\"\n[models]\ndir = \"{}\"\n",
            toml::to_string(kafka).context("the Kafka configuration cannot be written")?,
            folder.join("blobs").display(),
            folder.join("pseudonym.key").display(),
            models.display(),
        )
        .replace("[properties]", "[kafka.properties]");
        let path = folder.join("duet.toml");
        fs::create_dir_all(folder.join("blobs"))?;
        fs::write(&path, config)?;
        Ok(Self {
            services: Vec::new(),
            folder: folder.to_owned(),
            config: path,
            binary: binary()?,
        })
    }

    /// Starts `service` and returns its number. It is not waited for.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub fn start(&mut self, service: &str) -> Result<usize> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let number = self.services.len();
        let name = format!("{service}-{number}");
        let mut command = self.command(&["run", service]);
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        let log = self.folder.join(format!("{name}.log"));
        let process = Guarded::start(&name, &command, &log, None)?;
        self.services.push(Service { name, process, port });
        Ok(number)
    }

    /// `duet` with the fleet's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&self.config).args(arguments);
        // A variable of the caller's would override the fleet's configuration.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("DUET_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Waits until every service says that it is ready.
    ///
    /// # Errors
    ///
    /// With the end of a service's log where it is not.
    pub fn wait_until_ready(&self) -> Result<()> {
        for service in &self.services {
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
        self.services.iter().map(|s| Ok((s.name.as_str(), ask(s)?))).collect()
    }

    /// The process of a service.
    pub fn process(&self, number: usize) -> Option<&Guarded> {
        self.services.get(number).map(|service| &service.process)
    }

    /// The names of the services that have ended.
    pub fn dead(&self) -> Vec<&str> {
        let dead = self.services.iter().filter(|service| !service.process.is_running());
        dead.map(|service| service.name.as_str()).collect()
    }

    /// Stops every service in an orderly way and returns the exit code of each.
    ///
    /// # Errors
    ///
    /// Where one cannot be waited for.
    pub fn stop(self) -> Result<Vec<(String, Option<i32>)>> {
        self.services.into_iter().map(|s| Ok((s.name, s.process.stop()?))).collect()
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

/// GET over loopback: status and body.
fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no HTTP status")?.parse()?;
    Ok((status, body.to_owned()))
}
