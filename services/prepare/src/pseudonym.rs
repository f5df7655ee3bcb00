//! Pseudonyms of studies: keyed hashes that nobody without the key can compute from an identifier.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use duet_case::{CaseId, StudyKey};
use hmac::{Hmac, Mac as _};
use rand::TryRngCore as _;
use sha2::Sha256;

/// The secret that pseudonyms are made with: 32 bytes. Whoever has it can tell whether a given study is in the topics, so it is
/// never shown, not even by `Debug`.
#[derive(Clone)]
pub struct PseudonymKey([u8; 32]);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not 64 hexadecimal digits.
    #[error("the pseudonym key{} is not 64 hexadecimal digits: make one with `openssl rand -hex 32`", .path.as_ref().map_or(String::new(), |path| format!(" in {}", path.display())))]
    NotAKey {
        /// The file, where it came from one.
        path: Option<PathBuf>,
    },
    /// The file cannot be read or made.
    #[error("the pseudonym key file {} (prepare.pseudonym_key_file) cannot be {action}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a pseudonym key")]
    NoRandomness,
}

impl std::fmt::Debug for PseudonymKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PseudonymKey(withheld)")
    }
}

impl PseudonymKey {
    /// A new key from the system's randomness.
    ///
    /// # Errors
    ///
    /// Where the system has none.
    pub fn random() -> Result<Self, KeyError> {
        let mut bytes = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|_| KeyError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// Where the text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes)
            .map_err(|_| KeyError::NotAKey { path: None })?;
        Ok(Self(bytes))
    }

    /// Reads the key in `path`, or makes a new one there that only its owner may read. Several processes that start at once
    /// end up with the same key.
    ///
    /// # Errors
    ///
    /// Where the file holds no key, or cannot be read or made.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let failed =
            |action| move |source| KeyError::File { path: path.to_owned(), action, source };
        match fs::read_to_string(path) {
            Ok(text) => {
                return Self::from_hex(&text)
                    .map_err(|_| KeyError::NotAKey { path: Some(path.to_owned()) });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read")(error)),
        }
        let key = Self::random()?;
        match duet_seal::create_private(path, &format!("{}\n", hex::encode(key.0))) {
            Ok(()) => Ok(key),
            // Another process was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Self::load_or_create(path)
            }
            Err(error) => Err(failed("made")(error)),
        }
    }

    /// The pseudonym of a study; of the image alone where it names no study.
    pub(crate) fn study(&self, study_instance_uid: Option<&str>, case: &CaseId) -> StudyKey {
        let name = study_instance_uid.unwrap_or(case.as_str());
        // HMAC takes keys of every length, so that this cannot fail; were it to, the bare hash of key and name would do as well.
        let mac: [u8; 32] = match Hmac::<Sha256>::new_from_slice(&self.0) {
            Ok(mac) => mac.chain_update(name.as_bytes()).finalize().into_bytes().into(),
            Err(_) => *duet_case::Digest::of_parts(&[&self.0, name.as_bytes()]).as_bytes(),
        };
        StudyKey::from_mac(&mac)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_study_has_one_pseudonym_and_it_needs_the_key() {
        let key = PseudonymKey::from_hex(&"ab".repeat(32)).unwrap();
        let other = PseudonymKey::from_hex(&"cd".repeat(32)).unwrap();
        let (one, two) = (CaseId::of_input(b"1"), CaseId::of_input(b"2"));
        assert_eq!(key.study(Some("1.2.3"), &one), key.study(Some("1.2.3"), &two));
        assert_ne!(key.study(Some("1.2.3"), &one), other.study(Some("1.2.3"), &one));
        assert_ne!(key.study(None, &one), key.study(None, &two));
        // From `openssl dgst -sha256 -mac HMAC -macopt hexkey:abab…`.
        assert_eq!(key.study(Some("1.2.3"), &one).as_str(), "s-3b7a4561eb77cfe35a5666999708d499");
    }

    #[test]
    fn the_key_file_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/pseudonym.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| PseudonymKey::load_or_create(&path).unwrap().0))
                .collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_without_a_key_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pseudonym.key");
        fs::write(&path, "secret").unwrap();
        let message = PseudonymKey::load_or_create(&path).unwrap_err().to_string();
        assert!(message.contains("pseudonym.key") && !message.contains("secret"), "{message}");
    }
}
