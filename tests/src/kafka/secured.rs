//! A broker that lets in only who it knows, and only to what they are allowed.
//!
//! Three ways in: by SASL over TLS (PLAIN, SCRAM-SHA-512, OAUTHBEARER with unsecured tokens), by a client certificate, and
//! in clear for the tests' own housekeeping, whose principal may do everything.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result};
use duet_transport::KafkaConfig;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::{Grant, Kafka, acls, config_for, free_ports, jars, java};

/// Who may log in by PLAIN and by SCRAM: name and password. Allowed nothing until a grant says so.
pub const PLAIN_USER: [&str; 2] = ["plain-user", "marmalade on toast"];

/// A broker with TLS, SASL and access lists.
pub struct Secured {
    kafka: Kafka,
    folder: PathBuf,
    sasl: String,
    mutual: String,
}

impl Secured {
    /// A broker that knows these users by SCRAM-SHA-512, name and password. Certificates and tokens are in `folder`.
    ///
    /// # Errors
    ///
    /// As [`Kafka::start`].
    pub fn start(folder: &Path, users: &[(&str, &str)]) -> Result<Self> {
        let authority = Authority::new("the brokers' authority")?;
        authority.write(&folder.join("ca.pem"))?;
        authority.issue("broker", &folder.join("broker"))?;
        authority.issue("duet-by-certificate", &folder.join("client"))?;
        Authority::new("another authority")?.write(&folder.join("other-ca.pem"))?;
        // Kafka takes the key and the chain in one file.
        let server = folder.join("server.pem");
        let part = |name: &str| fs::read_to_string(folder.join(name));
        fs::write(&server, part("broker.key")? + &part("broker.pem")? + &part("ca.pem")?)?;

        let [port, controller, sasl, mutual] = free_ports()?;
        let listeners = format!(
            "PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{sasl},SSL://127.0.0.1:{mutual}"
        );
        let [name, password] = PLAIN_USER;
        let properties = format!(
            "listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
ssl.keystore.type=PEM
ssl.keystore.location={server}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
listener.name.ssl.ssl.client.auth=required
listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{name}=\"{password}\";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";
listener.name.sasl_ssl.oauthbearer.connections.max.reauth.ms=3600000
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=false
",
            server = server.display(),
            ca = folder.join("ca.pem").display(),
        );
        let format: Vec<String> = users
            .iter()
            .flat_map(|(name, password)| {
                let user = format!("SCRAM-SHA-512=[name={name},password={password}]");
                ["--add-scram".to_owned(), user]
            })
            .collect();
        let kafka = Kafka::launch(false, [port, controller], &properties, &format)?;
        let [sasl, mutual] = [sasl, mutual].map(|port| format!("127.0.0.1:{port}"));
        Ok(Self { kafka, folder: folder.to_owned(), sasl, mutual })
    }

    /// For housekeeping: may do everything.
    pub fn own_config(&self) -> KafkaConfig {
        self.kafka.own_config()
    }

    /// Where SASL over TLS is spoken.
    pub fn sasl(&self) -> &str {
        &self.sasl
    }

    /// Where a client certificate is asked for.
    pub fn mutual(&self) -> &str {
        &self.mutual
    }

    /// `ca.pem`, `other-ca.pem`, `client.pem` and `client.key` are here.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What the broker has written to its log.
    pub fn log(&self) -> PathBuf {
        self.kafka.log()
    }

    /// Gives rights.
    ///
    /// # Errors
    ///
    /// Where the broker refuses one.
    pub fn allow(&self, grants: &[Grant]) -> Result<()> {
        acls::create(self.kafka.address(), grants)
    }

    /// Runs a script that calls `kafka-acls.sh`, with Kafka's own tool under that name.
    ///
    /// # Errors
    ///
    /// Where it cannot be run.
    pub fn run_acls(&self, script: &str) -> Result<Output> {
        let bin = self.folder.join("bin");
        fs::create_dir_all(&bin)?;
        let java = java(&jars()?);
        let words: Vec<_> = std::iter::once(java.get_program())
            .chain(java.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let tool = bin.join("kafka-acls.sh");
        fs::write(
            &tool,
            format!(
                "#!/bin/sh\nexec {} org.apache.kafka.tools.AclCommand \"$@\"\n",
                words.join(" ")
            ),
        )?;
        let file = bin.join("acls.sh");
        fs::write(&file, script)?;
        fs::write(bin.join("admin.properties"), "")?;
        let made = Command::new("chmod").arg("+x").arg(&tool).status()?;
        anyhow::ensure!(made.success(), "chmod failed");
        let path = std::env::var("PATH").unwrap_or_default();
        Command::new("sh")
            .arg(&file)
            .current_dir(&bin)
            .env("PATH", format!("{}:{path}", bin.display()))
            .output()
            .context("sh is not there")
    }

    /// Settings for a client of this broker, apart from those by which it is known.
    pub fn config_at(&self, address: &str, like: &KafkaConfig) -> KafkaConfig {
        let mut config = config_for(address);
        config.topic_prefix.clone_from(&like.topic_prefix);
        config
    }
}

/// An authority of certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let pem = parameters.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(parameters, key), pem })
    }

    fn write(&self, path: &Path) -> Result<()> {
        Ok(fs::write(path, &self.pem)?)
    }

    /// `path` with `.pem` and with `.key`, for 127.0.0.1.
    fn issue(&self, name: &str, path: &Path) -> Result<()> {
        let mut parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        fs::write(path.with_extension("pem"), certificate.pem())?;
        Ok(fs::write(path.with_extension("key"), key.serialize_pem())?)
    }
}
