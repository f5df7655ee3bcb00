//! Who the cluster is, and who Duet is to it: `[kafka.tls]` and `[kafka.sasl]` in the configuration.
//!
//! Passwords and tokens come from files or from the environment. They are read when a client is made (a token also
//! whenever the client wants a new one), so that a renewed file counts from the next client on, and they are shown
//! nowhere: not by `Debug`, not in the written configuration, not in an error.

use std::{
    error::Error,
    fmt, fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rdkafka::{ClientConfig, client::OAuthToken};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::KafkaConfig;
use crate::TransportError;

/// What stands in a secret's place where a configuration is shown.
const WITHHELD: &str = "(withheld)";
/// For how long a token that does not say when it ends is used before its file is read again.
const UNDATED: Duration = Duration::from_secs(300);
/// Settings of librdkafka that `kafka.tls` and `kafka.sasl` make.
const MADE_HERE: [&str; 8] = [
    "security.protocol",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
];

/// `[kafka.tls]`: how the cluster is known. Any of the files switches TLS on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaTls {
    /// Speak TLS, also where no file is named.
    pub enabled: bool,
    /// PEM: the authorities that the brokers' certificates are checked against; else this system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM: Duet's own certificate, where the brokers ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// PEM: that certificate's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// `[kafka.sasl]`: who Duet says it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSasl {
    /// How it is proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<Mechanism>,
    /// The user's name, for PLAIN and SCRAM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password. Better in the variable or in a file than in the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// File with the password and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// File with a bearer token, for OAUTHBEARER. Read again before the token ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mechanism {
    /// The password itself.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Challenge and response (RFC 5802, 7677).
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// A bearer token (RFC 7628, KIP-255).
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
}

impl Mechanism {
    /// As the protocol has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }

    /// Whether whoever listens on the way learns what it takes to be this user.
    const fn tells_the_secret(self) -> bool {
        matches!(self, Self::Plain | Self::OauthBearer)
    }
}

/// A text that nobody is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// `text`, withheld from now on.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WITHHELD)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(WITHHELD)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Quotes nothing of what it was given.
        struct Text;
        macro_rules! refused {
            ($($visit:ident $type:ty),*) => {
                $(fn $visit<E: de::Error>(self, _: $type) -> Result<String, E> {
                    Err(E::custom("a password is a text: write it in quotes"))
                })*
            };
        }
        impl de::Visitor<'_> for Text {
            type Value = String;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
                Ok(text.to_owned())
            }

            refused!(visit_bool bool, visit_i64 i64, visit_u64 u64, visit_f64 f64);
        }
        deserializer.deserialize_string(Text).map(Self)
    }
}

impl KafkaTls {
    fn is_on(&self) -> bool {
        self.enabled || [&self.ca_file, &self.cert_file, &self.key_file].iter().any(|f| f.is_some())
    }
}

impl KafkaConfig {
    /// What is wrong with `kafka.tls`, `kafka.sasl` and what of `kafka.properties` concerns them.
    pub(super) fn check_access(&self) -> Result<(), String> {
        let (tls, sasl) = (&self.tls, &self.sasl);
        if tls.cert_file.is_some() != tls.key_file.is_some() {
            return Err(
                "kafka.tls.cert_file and kafka.tls.key_file belong together: set both or neither"
                    .to_owned(),
            );
        }
        if (tls.is_on() || sasl.mechanism.is_some())
            && let Some(name) = MADE_HERE.iter().find(|name| self.properties.contains_key(**name))
        {
            return Err(format!(
                "kafka.properties sets {name:?}, which kafka.tls and kafka.sasl set: use one of the two"
            ));
        }
        let Some(mechanism) = sasl.mechanism else {
            let set = [
                ("username", sasl.username.is_some()),
                ("password", sasl.password.is_some()),
                ("password_file", sasl.password_file.is_some()),
                ("token_file", sasl.token_file.is_some()),
            ];
            return match set.iter().find(|(_, is_set)| *is_set) {
                Some((name, _)) => Err(format!(
                    "kafka.sasl.{name} is set without kafka.sasl.mechanism: set that to PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
                )),
                None => Ok(()),
            };
        };
        let name = mechanism.name();
        if mechanism == Mechanism::OauthBearer {
            if sasl.token_file.is_none() {
                return Err("kafka.sasl.token_file is not set, but kafka.sasl.mechanism = \"OAUTHBEARER\" needs it: the file with the bearer token".to_owned());
            }
        } else {
            if sasl.username.as_deref().unwrap_or_default().is_empty() {
                return Err(format!(
                    "kafka.sasl.username is not set, but kafka.sasl.mechanism = {name:?} needs it"
                ));
            }
            match (&sasl.password, &sasl.password_file) {
                (Some(Secret(text)), None) if text == WITHHELD => {
                    return Err(format!(
                        "kafka.sasl.password is {WITHHELD:?}, which is what `duet config show` prints in a password's place: set the password itself"
                    ));
                }
                (Some(_), None) | (None, Some(_)) => {}
                (None, None) => {
                    return Err(format!(
                        "kafka.sasl.password_file is not set, but kafka.sasl.mechanism = {name:?} needs the password: name its file, or set DUET_KAFKA_SASL_PASSWORD"
                    ));
                }
                (Some(_), Some(_)) => {
                    return Err("kafka.sasl.password and kafka.sasl.password_file are both set: use one of them".to_owned());
                }
            }
        }
        if mechanism.tells_the_secret() && !tls.is_on() && !self.is_loopback() {
            return Err(format!(
                "kafka.sasl.mechanism is {name:?} without kafka.tls: the secret would go over the network in clear. Set kafka.tls.enabled, or use SCRAM-SHA-512"
            ));
        }
        Ok(())
    }

    fn is_loopback(&self) -> bool {
        let host = |server: &str| server.trim().rsplit_once(':').map(|(host, _)| host.to_owned());
        self.bootstrap.split(',').all(|server| {
            host(server).is_some_and(|host| {
                host == "localhost" || host == "[::1]" || host.starts_with("127.")
            })
        })
    }

    /// Puts `kafka.tls` and `kafka.sasl` into a client's settings.
    ///
    /// # Errors
    ///
    /// Names the file that cannot be read.
    pub(super) fn set_access(&self, client: &mut ClientConfig) -> Result<(), TransportError> {
        let (tls, sasl) = (&self.tls, &self.sasl);
        if !tls.is_on() && sasl.mechanism.is_none() {
            return Ok(()); // kafka.properties may say more
        }
        let protocol = match (tls.is_on(), sasl.mechanism.is_some()) {
            (true, true) => "sasl_ssl",
            (true, false) => "ssl",
            (false, _) => "sasl_plaintext",
        };
        client.set("security.protocol", protocol);
        for (key, name, file) in [
            ("kafka.tls.ca_file", "ssl.ca.location", &tls.ca_file),
            ("kafka.tls.cert_file", "ssl.certificate.location", &tls.cert_file),
            ("kafka.tls.key_file", "ssl.key.location", &tls.key_file),
        ] {
            if let Some(path) = file {
                // The client's own message names no file.
                fs::File::open(path).map_err(|error| unreadable(key, path, &error))?;
                client.set(name, path.to_string_lossy());
            }
        }
        let Some(mechanism) = sasl.mechanism else { return Ok(()) };
        client.set("sasl.mechanism", mechanism.name());
        if mechanism == Mechanism::OauthBearer {
            return self
                .tokens()
                .read()
                .map(drop)
                .map_err(|error| TransportError::Configuration { reason: error.to_string() });
        }
        client.set("sasl.username", sasl.username.as_deref().unwrap_or_default());
        let password = match (&sasl.password, &sasl.password_file) {
            (Some(Secret(text)), _) => text.clone(),
            (None, Some(path)) => fs::read_to_string(path)
                .map_err(|error| unreadable("kafka.sasl.password_file", path, &error))?
                .trim_end_matches(['\n', '\r'])
                .to_owned(),
            (None, None) => String::new(),
        };
        client.set("sasl.password", password);
        Ok(())
    }

    /// Where bearer tokens come from.
    pub(super) fn tokens(&self) -> Tokens {
        Tokens(self.sasl.token_file.clone())
    }

    /// Whether clients of the cluster need a bearer token.
    pub(super) fn needs_tokens(&self) -> bool {
        self.sasl.mechanism == Some(Mechanism::OauthBearer)
    }
}

fn unreadable(key: &str, path: &Path, error: &std::io::Error) -> TransportError {
    let reason = format!("{key} names {}, which cannot be read: {error}", path.display());
    TransportError::Configuration { reason }
}

/// Gives a client its bearer tokens: the file's content, read whenever the client asks, which it does after four
/// fifths of a token's time.
#[derive(Debug, Clone)]
pub(super) struct Tokens(Option<PathBuf>);

impl Tokens {
    /// The token of this moment.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, or holds no token that is still good. Never quotes it.
    pub(super) fn read(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let path = self.0.as_deref().ok_or("kafka.sasl.token_file is not set")?;
        let text = fs::read_to_string(path).map_err(|error| {
            format!("kafka.sasl.token_file names {}, which cannot be read: {error}", path.display())
        })?;
        let token = text.trim();
        if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c == '\0') {
            let reason = "which holds no bearer token: it must be one word";
            return Err(format!("kafka.sasl.token_file names {}, {reason}", path.display()).into());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let claims = claims(token);
        let ends = claims.exp.map(Duration::from_secs_f64).unwrap_or(now + UNDATED);
        if ends <= now {
            return Err(format!(
                "the token in {} (kafka.sasl.token_file) has expired: have it renewed",
                path.display()
            )
            .into());
        }
        Ok(OAuthToken {
            token: token.to_owned(),
            principal_name: claims.sub.unwrap_or_else(|| "duet".to_owned()),
            lifetime_ms: i64::try_from(ends.as_millis())?,
        })
    }
}

/// What is read of a token, where it is a JWT (RFC 7519). Nothing is proven by it here: that is the broker's part.
#[derive(Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    /// Seconds of the epoch.
    exp: Option<f64>,
}

fn claims(token: &str) -> Claims {
    let read = || {
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Claims = serde_json::from_slice(&payload).ok()?;
        let is_time = |exp: f64| (0.0..1e11).contains(&exp);
        Some(Claims { exp: claims.exp.filter(|exp| is_time(*exp)), ..claims })
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests;
