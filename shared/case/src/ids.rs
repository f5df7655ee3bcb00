//! Identifiers: all derive from content, so that the same input gives the same name wherever it is computed.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a SHA-256 digest: give 64 hexadecimal digits, as `sha256sum` prints them")]
pub struct DigestError {
    text: String,
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of several parts, each preceded by its length, so that no two lists of parts collide.
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// The digest whose 32 bytes these are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| DigestError { text: text.chars().take(80).collect() })?;
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
            "description": "SHA-256, lower-case hexadecimal"
        })
    }
}

/// The name of one image's case: `c-` and 32 hexadecimal digits that derive from the input's bytes alone.
/// The same file fed twice has the same id.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct CaseId(String);

impl CaseId {
    /// The id of the image that `bytes` are.
    pub fn of_input(bytes: &[u8]) -> Self {
        Self::of_digest(&Digest::of(bytes))
    }

    /// The id of the image whose bytes have this digest: for files that nobody holds as a whole.
    pub fn of_digest(file: &Digest) -> Self {
        let digest = Digest::of_parts(&[b"duet/case/v2", file.as_bytes()]);
        Self(format!("c-{}", hex::encode(&digest.as_bytes()[..16])))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads an id that came from outside (a URL, say).
    ///
    /// Returns `None` for anything that is not `c-` and 32 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("c-")?;
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (digits.len() == 32 && digits.bytes().all(lower_hex)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The pseudonym of a study: `s-` and 32 hexadecimal digits, a keyed hash of its identifier. The key of every
/// record from `prepared` on, so that one study stays in order on one partition.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct StudyKey(String);

impl StudyKey {
    /// The pseudonym whose keyed hash (HMAC-SHA-256) is `mac`; its first 16 bytes are used.
    pub fn from_mac(mac: &[u8; 32]) -> Self {
        Self(format!("s-{}", hex::encode(&mac[..16])))
    }

    /// The pseudonym as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StudyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A picture in the blob store, named by the digest of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlobRef {
    /// SHA-256 of the bytes, and the blob's name.
    pub sha256: Digest,
    /// Size in bytes.
    pub bytes: u64,
    /// For instance `image/png`.
    pub media_type: String,
}

/// Which model spoke: its name, version and the digest of its weights.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ModelRef {
    /// The manifest's name.
    pub name: String,
    /// The manifest's version.
    pub version: String,
    /// SHA-256 of the weights (of a served model: of its name as the server states it).
    pub sha256: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_id_is_stable_and_parses_back() {
        let id = CaseId::of_input(b"film");
        assert_eq!(id, CaseId::of_input(b"film"));
        assert_ne!(id, CaseId::of_input(b"film "));
        assert_eq!(CaseId::parse(id.as_str()), Some(id));
    }

    #[test]
    fn foreign_text_is_no_case_id() {
        for text in ["", "c-", "c-zz", "../../etc/passwd", "c-0123456789ABCDEF0123456789ABCDEF"] {
            assert_eq!(CaseId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(Digest::of_parts(&[b"ab", b"c"]), Digest::of_parts(&[b"a", b"bc"]));
    }

    #[test]
    fn digest_refuses_what_is_not_one() {
        let error = "abc".parse::<Digest>().unwrap_err().to_string();
        assert!(error.contains("\"abc\"") && error.contains("64 hexadecimal"), "{error}");
    }
}
