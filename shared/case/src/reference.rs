//! The claim check: a record in `images` without a value, whose header says where in the blob store the file is.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// A file in the inbox of the blob store, as the header [`Reference::HEADER`] names it:
/// `{"name":"inbox/<sha256>","sha256":"<sha256>","bytes":104857600}`.
///
/// The inbox holds original files and is guarded like `images`. A name is the inbox's and the file's own digest, so a
/// reference can lead nowhere else, and the same file is one object however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    name: String,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// Why a header is not a reference that is followed. The messages quote nothing of it: it may name a patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It cannot be read.
    #[error(
        "the header duet-reference is not a reference: it has to be {{\"name\": \"inbox/SHA256\", \"sha256\": \"SHA256\", \"bytes\": N}}, with the file's SHA-256 in lower-case hexadecimal digits and its size"
    )]
    Unreadable,
    /// It names something else than a file of the inbox.
    #[error(
        "the header duet-reference names something outside the inbox of the blob store, which is not followed: a name is `inbox/` and the file's SHA-256, in the store that blob.url names, and no URL, other bucket or other path"
    )]
    Foreign,
    /// The record has a value as well.
    #[error(
        "the record has both a value and the header duet-reference: send the file, or an empty value and where the file is"
    )]
    Doubled,
}

impl ReferenceError {
    /// A short word for metrics.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Unreadable | Self::Doubled => "reference_invalid",
            Self::Foreign => "reference_foreign",
        }
    }
}

impl Reference {
    /// The header's name.
    pub const HEADER: &str = "duet-reference";

    /// The folder, or prefix, of the blob store that holds what references name.
    pub const INBOX: &str = "inbox";

    /// The reference to a file of that digest and size.
    pub fn to(sha256: Digest, bytes: u64) -> Self {
        Self { name: format!("{}/{sha256}", Self::INBOX), sha256, bytes }
    }

    /// The object's name in the blob store.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The header's value.
    pub fn header(&self) -> String {
        // In the order of the fields, as the documentation shows it. Nothing in it needs an escape.
        format!(r#"{{"name":"{}","sha256":"{}","bytes":{}}}"#, self.name, self.sha256, self.bytes)
    }

    /// Reads the header's value. Fields that are not known are ignored.
    ///
    /// # Errors
    ///
    /// Where it is no reference, or one to something outside the inbox.
    pub fn from_header(value: &[u8]) -> Result<Self, ReferenceError> {
        let read: Self = serde_json::from_slice(value).map_err(|_| ReferenceError::Unreadable)?;
        let own = Self::to(read.sha256, read.bytes);
        if own.name == read.name { Ok(own) } else { Err(ReferenceError::Foreign) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_back_as_it_was_written() {
        let reference = Reference::to(Digest::of(b"film"), 4);
        assert_eq!(Reference::from_header(reference.header().as_bytes()).unwrap(), reference);
        let further = reference.header().replace('}', r#","site":"north"}"#);
        assert_eq!(Reference::from_header(further.as_bytes()).unwrap(), reference);
    }

    #[test]
    fn nothing_outside_the_inbox_is_followed_and_nothing_is_quoted() {
        let sha256 = Digest::of(b"film");
        let other = Digest::of(b"other");
        let upper = sha256.to_string().to_uppercase();
        for (name, class) in [
            (format!("s3://elsewhere/inbox/{sha256}"), "reference_foreign"),
            (format!("https://DOE.example/inbox/{sha256}"), "reference_foreign"),
            (format!("inbox/../../DOE/{sha256}"), "reference_foreign"),
            (format!("/inbox/{sha256}"), "reference_foreign"),
            (format!("inbox/{other}"), "reference_foreign"),
            (format!("inbox/{upper}"), "reference_foreign"),
            (format!("sha256/{}/{sha256}", &sha256.to_string()[..2]), "reference_foreign"),
            ("inbox/DOE^JANE.dcm".to_owned(), "reference_foreign"),
            (String::new(), "reference_foreign"),
        ] {
            let header = format!(r#"{{"name":"{name}","sha256":"{sha256}","bytes":4}}"#);
            let error = Reference::from_header(header.as_bytes()).unwrap_err();
            assert_eq!(error.class(), class, "{name}");
            assert!(!error.to_string().contains("DOE"), "{error}");
        }
        for header in ["", "inbox/film", "{}", r#"{"name":"inbox/1","sha256":"DOE","bytes":1}"#] {
            let error = Reference::from_header(header.as_bytes()).unwrap_err();
            assert_eq!(error, ReferenceError::Unreadable, "{header}");
            assert!(!error.to_string().contains("DOE"), "{error}");
        }
    }
}
