//! Sealing.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use duet_case::{CaseId, Sealed};
use ring::{
    aead::{Aad, NONCE_LEN, Nonce},
    rand::{SecureRandom as _, SystemRandom},
};
use serde::Serialize;

use crate::{KeyFile, KeyFileError, keys::Key};

/// What is sealed is filled up to a multiple of this, so that its length does not tell a name's.
const BLOCK: usize = 256;

/// What something is sealed for. It opens for nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Filing a result back where its image came from.
    Filing,
}

impl Purpose {
    const fn name(self) -> &'static str {
        match self {
            Self::Filing => "filing",
        }
    }
}

/// Something could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It cannot be written as JSON.
    #[error("what is to be sealed cannot be written as JSON")]
    Unwritable,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a nonce")]
    NoRandomness,
    /// The cipher does not take it.
    #[error("the cipher refused what is to be sealed; please report it")]
    Refused,
}

/// Seals with one key, and cannot open.
#[derive(Debug)]
pub struct Sealer {
    key: Key,
}

impl Sealer {
    /// With the first key of the file, which is made where it is missing.
    ///
    /// # Errors
    ///
    /// As [`KeyFile::load_or_create`].
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        let first = KeyFile::load_or_create(path)?.into_first();
        first.map(|key| Self { key }).ok_or_else(|| KeyFileError::Empty { path: path.to_owned() })
    }

    /// The id of its key.
    pub fn key_id(&self) -> &str {
        self.key.id()
    }

    /// Seals `content` for one case and one purpose. Sealed twice it looks different each time.
    ///
    /// # Errors
    ///
    /// [`SealError`]; never what was to be sealed.
    pub fn seal(
        &self,
        case: &CaseId,
        purpose: Purpose,
        content: &impl Serialize,
    ) -> Result<Sealed, SealError> {
        let mut text = serde_json::to_vec(content).map_err(|_| SealError::Unwritable)?;
        // JSON may end in white space.
        text.resize(text.len().next_multiple_of(BLOCK), b' ');
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let bound = bound_to(case, purpose, self.key.id());
        self.key
            .cipher()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound),
                &mut text,
            )
            .map_err(|_| SealError::Refused)?;
        Ok(Sealed {
            key: self.key.id().to_owned(),
            data: STANDARD.encode([&nonce[..], &text].concat()),
        })
    }
}

/// What a seal is bound to: it breaks where any of it is another.
pub(crate) fn bound_to(case: &CaseId, purpose: Purpose, key: &str) -> Vec<u8> {
    ["duet/sealed/v1", purpose.name(), case.as_str(), key].join("\n").into_bytes()
}
