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
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use duet_case::Digest;
use duet_transport::KafkaConfig;

use crate::Guarded;

pub use self::{
    acls::Grant,
    secured::{PLAIN_USER, Secured},
};

/// Names of files in a broker's folder.
const BROKER: &str = "server.properties";
const CONTROLLER: &str = "controller.properties";
/// A broker that is silent for this long is held for gone by a controller of its own.
const SESSION: Duration = Duration::from_secs(2);

const INSTALL: &str = "install a Java runtime (17 or newer) and Maven, for instance with `apt-get install -y default-jre-headless maven`, or name a running broker by DUET_TEST_KAFKA=host:port";

/// A broker of the tests' own.
pub struct Kafka {
    folder: PathBuf,
    address: String,
    broker: Option<Guarded>,
    /// Where it is not the broker itself.
    controller: Option<Guarded>,
    killed: Option<Instant>,
    /// It is never dropped, so its guard removes what it leaves.
    is_shared: bool,
}

/// Keeps the broker that all tests of a process share; it ends with the process.
enum Held {
    Own(Box<Kafka>),
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
                .map(|kafka| Held::Own(Box::new(kafka)))
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

    /// As [`Kafka::start`], with further lines of `server.properties` and with the controller in a process of its own,
    /// as deployments have it, which lives on when the broker stops.
    ///
    /// This is the one to break. A broker that is its own controller takes up its transactions again before the
    /// controller has let it in; until then none of its partitions has a leader, Apache Kafka 4.3.1 takes them for
    /// deleted (`KRaftMetadataCache.getPartitionLeaderEndpoint`), and the markers of transactions that were about to
    /// end are dropped: outputs without their offsets, or offsets without an end.
    ///
    /// # Errors
    ///
    /// As [`Kafka::start`].
    pub fn start_apart(properties: &str) -> Result<Self> {
        let jars = jars()?;
        let folder = tempfile::Builder::new().prefix("duet-kafka-").tempdir()?.keep();
        let [port, controller] = free_ports()?;
        let lines = |role, id, listener: &str, data| {
            format!(
                "process.roles={role}\nnode.id={id}\nlisteners={listener}\nadvertised.listeners={listener}\nlog.dirs={}\n",
                folder.join(data).display()
            )
        };
        let own = lines("controller", 2, &format!("CONTROLLER://127.0.0.1:{controller}"), "quorum")
            + &format!("broker.session.timeout.ms={}\n", SESSION.as_millis());
        let broker = lines("broker", 1, &format!("PLAINTEXT://127.0.0.1:{port}"), "data")
            + "broker.heartbeat.interval.ms=500\n";
        let shared = server_properties(&folder, port, controller);
        for (name, lines, how) in
            [(CONTROLLER, own, "--standalone"), (BROKER, broker, "--no-initial-controllers")]
        {
            fs::write(folder.join(name), format!("{shared}{lines}{properties}"))?;
            format_storage(&jars, &folder.join(name), how, &[])?;
        }
        let log = folder.join("controller.log");
        let controller =
            launch(&jars, "the Kafka controller", &folder.join(CONTROLLER), &log, None)?;
        let address = format!("127.0.0.1:{port}");
        let mut kafka = Self {
            folder,
            address,
            broker: None,
            controller: Some(controller),
            killed: None,
            is_shared: false,
        };
        kafka.resume()?;
        Ok(kafka)
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
        let properties = folder.join(BROKER);
        fs::write(&properties, server_properties(&folder, port, controller) + further)?;
        format_storage(&jars, &properties, "--standalone", format)?;
        let address = format!("127.0.0.1:{port}");
        let mut kafka =
            Self { folder, address, broker: None, controller: None, killed: None, is_shared };
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
            self.killed = Some(Instant::now());
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
        if self.controller.is_some() {
            // Until then the controller holds the one that was killed for alive.
            let noticed = self.killed.take().map(|killed| killed + SESSION + SESSION / 2);
            sleep(
                noticed.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now())),
            );
        }
        let remove = self.is_shared.then_some(self.folder.as_path());
        let (properties, log) = (self.folder.join(BROKER), self.log());
        self.broker = Some(launch(&jars()?, "the Kafka broker", &properties, &log, remove)?);
        Ok(())
    }
}

fn format_storage(jars: &Path, properties: &Path, how: &str, further: &[String]) -> Result<()> {
    let id = "duet-tests-of-Kafka-00"; // 22 characters of base64
    let formatted = java(jars)
        .arg("kafka.tools.StorageTool")
        .args(["format", how, "-t", id, "-c"])
        .arg(properties)
        .args(further)
        .output()?;
    if !formatted.status.success() {
        bail!(
            "Kafka's storage cannot be formatted: {}",
            String::from_utf8_lossy(&formatted.stderr)
        );
    }
    Ok(())
}

/// Starts a process of Kafka's and waits until it says that it has started.
fn launch(
    jars: &Path,
    name: &str,
    properties: &Path,
    log: &Path,
    remove: Option<&Path>,
) -> Result<Guarded> {
    const STARTED: &str = "Kafka Server started";
    let before = fs::read_to_string(log).unwrap_or_default().matches(STARTED).count();
    let mut command = java(jars);
    command.arg("-Xmx512m").arg("kafka.Kafka").arg(properties);
    let process = Guarded::start(name, &command, log, remove)?;
    process.wait_until(Duration::from_secs(60), |process| {
        process.output().matches(STARTED).count() > before
    })?;
    Ok(process)
}

impl Drop for Kafka {
    fn drop(&mut self) {
        drop(self.broker.take());
        drop(self.controller.take());
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
