//! A real Apache Kafka 4 broker (KRaft, one node) on free loopback ports.

mod acls;
mod secured;

use std::{
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use duet_case::Digest;
use duet_transport::KafkaConfig;

use crate::Guarded;

pub use self::{
    acls::Grant,
    secured::{PLAIN_USER, Secured},
};

const INSTALL: &str = "install a Java runtime (17 or newer) and Maven, for instance with `apt-get install -y default-jre-headless maven`, or name a running broker by DUET_TEST_KAFKA=host:port";

/// A broker of the tests' own.
pub struct Kafka {
    folder: PathBuf,
    address: String,
    broker: Option<Guarded>,
    /// It is never dropped, so its guard removes what it leaves.
    is_shared: bool,
}

/// Keeps the broker that all tests of a process share; it ends with the process.
enum Held {
    Own(Kafka),
    Foreign(String),
}

impl Kafka {
    /// The address of the broker that all tests of this process share: the one that `DUET_TEST_KAFKA` names, or one
    /// of our own, started by the first that asks.
    ///
    /// # Errors
    ///
    /// Says what to install where it cannot be started. Tests fail with it; they are not skipped.
    pub fn shared() -> Result<&'static str> {
        static SHARED: OnceLock<Result<Held, String>> = OnceLock::new();
        let held = SHARED.get_or_init(|| match env::var("DUET_TEST_KAFKA") {
            Ok(address) if !address.is_empty() => Ok(Held::Foreign(address)),
            _ => free_ports()
                .and_then(|ports| Self::launch(true, ports, "", &[]))
                .map(Held::Own)
                .map_err(|error| format!("{error:#}")),
        });
        match held {
            Ok(Held::Own(kafka)) => Ok(&kafka.address),
            Ok(Held::Foreign(address)) => Ok(address),
            Err(error) => bail!("no Kafka broker to test against: {error}"),
        }
    }

    /// A configuration for the shared broker, with topics of its own.
    ///
    /// # Errors
    ///
    /// As [`Kafka::shared`].
    pub fn config() -> Result<KafkaConfig> {
        Ok(config_for(Self::shared()?))
    }

    /// Formats and starts a broker and waits until it takes connections.
    ///
    /// # Errors
    ///
    /// Where Java, Maven or the jars are missing, or the broker does not start.
    pub fn start() -> Result<Self> {
        Self::launch(false, free_ports()?, "", &[])
    }

    /// As [`Kafka::start`], with further lines of `server.properties`.
    ///
    /// # Errors
    ///
    /// As [`Kafka::start`].
    pub fn start_with(properties: &str) -> Result<Self> {
        Self::launch(false, free_ports()?, properties, &[])
    }

    /// On two ports, for clients and for its controller, with further lines of `server.properties`, which go before our
    /// own, and further arguments for formatting its storage.
    fn launch(
        is_shared: bool,
        [port, controller]: [u16; 2],
        further: &str,
        format: &[String],
    ) -> Result<Self> {
        let jars = jars()?;
        let folder = tempfile::Builder::new().prefix("duet-kafka-").tempdir()?.keep();
        let properties = folder.join("server.properties");
        fs::write(&properties, server_properties(&folder, port, controller) + further)?;
        let id = "duet-tests-of-Kafka-00"; // 22 characters of base64
        let formatted = java(&jars)
            .arg("kafka.tools.StorageTool")
            .args(["format", "--standalone", "-t", id, "-c"])
            .arg(&properties)
            .args(format)
            .output()?;
        if !formatted.status.success() {
            bail!(
                "Kafka's storage cannot be formatted: {}",
                String::from_utf8_lossy(&formatted.stderr)
            );
        }
        let mut kafka =
            Self { folder, address: format!("127.0.0.1:{port}"), broker: None, is_shared };
        kafka.resume()?;
        Ok(kafka)
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A configuration for this broker, with topics of its own.
    pub fn own_config(&self) -> KafkaConfig {
        config_for(&self.address)
    }

    /// Stops the broker; what it holds stays on disk.
    ///
    /// # Errors
    ///
    /// Where it cannot be waited for.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(broker) = self.broker.take() {
            broker.stop()?;
        }
        Ok(())
    }

    /// Kills the broker as a failing machine would; what it has written stays on disk.
    ///
    /// # Errors
    ///
    /// Where it runs no more.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(broker) = self.broker.take() {
            broker.signal("-KILL")?;
            broker.stop()?;
        }
        Ok(())
    }

    /// The broker's process, while it runs.
    pub fn process(&self) -> Option<&Guarded> {
        self.broker.as_ref()
    }

    /// What the broker has written to its log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("broker.log")
    }

    /// Deletes a topic of the broker at `address`, which nothing of Duet does: by a request in the protocol's own bytes.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer or says that it did not.
    pub fn delete_topic(address: &str, name: &str) -> Result<()> {
        // DeleteTopics, version 1, without a client's name: one topic, within ten seconds.
        let mut request = Vec::new();
        for number in [20_i16, 1] {
            request.extend(number.to_be_bytes());
        }
        request.extend(1_i32.to_be_bytes());
        request.extend((-1_i16).to_be_bytes());
        request.extend(1_i32.to_be_bytes());
        request.extend(i16::try_from(name.len())?.to_be_bytes());
        request.extend(name.as_bytes());
        request.extend(10_000_i32.to_be_bytes());
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(&u32::try_from(request.len())?.to_be_bytes())?;
        stream.write_all(&request)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut answer)?;
        // The error is the last thing in it.
        match answer.as_slice() {
            [.., 0, 0] => Ok(()),
            [.., high, low] => {
                bail!("{name} was not deleted: error {}", i16::from_be_bytes([*high, *low]))
            }
            _ => bail!("{name} was not deleted: no answer"),
        }
    }

    /// Starts the broker again where it stopped.
    ///
    /// # Errors
    ///
    /// Where it does not start.
    pub fn resume(&mut self) -> Result<()> {
        const STARTED: &str = "Kafka Server started";
        let log = self.log();
        let before = fs::read_to_string(&log).unwrap_or_default().matches(STARTED).count();
        let mut command = java(&jars()?);
        command.arg("-Xmx512m").arg("kafka.Kafka").arg(self.folder.join("server.properties"));
        let remove = self.is_shared.then_some(self.folder.as_path());
        let broker = Guarded::start("the Kafka broker", &command, &log, remove)?;
        broker.wait_until(Duration::from_secs(60), |broker| {
            broker.output().matches(STARTED).count() > before
        })?;
        self.broker = Some(broker);
        Ok(())
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        drop(self.broker.take());
        let _left_behind = fs::remove_dir_all(&self.folder);
    }
}

fn config_for(address: &str) -> KafkaConfig {
    KafkaConfig {
        bootstrap: address.to_owned(),
        topic_prefix: format!("test-{}.", hex::encode(rand::random::<[u8; 4]>())),
        ..KafkaConfig::default()
    }
}

fn free_ports<const N: usize>() -> Result<[u16; N]> {
    // Held together, so that they differ.
    let held: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

fn server_properties(folder: &Path, port: u16, controller: u16) -> String {
    let data = folder.join("data");
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
",
        data.display()
    )
}

fn java(jars: &Path) -> Command {
    let mut java = Command::new("java");
    let logging = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/log4j2.properties");
    java.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
    java.arg("-cp").arg(jars.join("*"));
    java
}

/// The folder of the broker's jars, which Maven fills the first time.
fn jars() -> Result<PathBuf> {
    runs("java", "-version")?;
    let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/pom.xml");
    let text = fs::read_to_string(&pom)?;
    let version = kafka_version(&text)?;
    // By what the pom asks for, so that jars that were fetched for another one are not taken for it.
    let asked = Digest::of(text.as_bytes()).to_string();
    let folder = cache()?.join(format!("kafka-{version}-{}", asked.get(..8).unwrap_or_default()));
    let jars = folder.join("lib");
    if jars.is_dir() {
        return Ok(jars);
    }
    runs("mvn", "-version")?;
    fs::create_dir_all(&folder)?;
    // Filled beside and renamed, so that a folder of that name is a whole one.
    let filling = tempfile::tempdir_in(&folder)?.keep();
    let fetched = Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", filling.display()))
        .output()?;
    if !fetched.status.success() {
        let _left_behind = fs::remove_dir_all(&filling);
        bail!(
            "Maven cannot fetch Kafka's jars: {}{}",
            String::from_utf8_lossy(&fetched.stdout),
            String::from_utf8_lossy(&fetched.stderr)
        );
    }
    if fs::rename(&filling, &jars).is_err() && !jars.is_dir() {
        bail!("Kafka's jars cannot be moved from {} to {}", filling.display(), jars.display());
    }
    Ok(jars)
}

fn runs(program: &str, argument: &str) -> Result<()> {
    let output = Command::new(program).arg(argument).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        _ => bail!("`{program}` is not there; {INSTALL}"),
    }
}

/// Where things are kept between runs, outside the repository.
fn cache() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("DUET_CACHE").filter(|folder| !folder.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    let home = env::var_os("HOME").context("neither DUET_CACHE nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/duet"))
}

fn kafka_version(pom: &str) -> Result<&str> {
    let after = pom.split_once("<artifactId>kafka_2.13</artifactId>").map(|(_, after)| after);
    after
        .and_then(|after| after.split_once("<version>"))
        .and_then(|(_, after)| after.split_once("</version>"))
        .map(|(version, _)| version.trim())
        .context("tests/kafka/pom.xml names no version of kafka_2.13")
}
