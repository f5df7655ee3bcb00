//! Opening.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use duet_case::{CaseId, Sealed};
use ring::aead::{Aad, NONCE_LEN, Nonce};
use serde::de::DeserializeOwned;

use crate::{KeyFile, KeyFileError, Purpose, seal::bound_to};

/// How often the file is looked at again for a key that is not known.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Something sealed did not open. Says nothing of what is in it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OpenError {
    /// No key is there at all.
    #[error("there is no file of sealing keys {}: copy the one that prepare seals with (prepare.sealing_key_file)", .path.display())]
    NoKeys {
        /// The file.
        path: PathBuf,
    },
    /// Sealed with a key that the file does not have.
    #[error("sealed with the key {key}, which {} does not have ({have}): give it the same keys as prepare (prepare.sealing_key_file), and keep old keys for as long as what they sealed is wanted", .path.display())]
    UnknownKey {
        /// The id of the key that it was sealed with.
        key: String,
        /// The file.
        path: PathBuf,
        /// The ids of the keys in it.
        have: String,
    },
    /// It is not what was sealed, or it was sealed for another case or purpose.
    #[error(
        "the seal is broken: what is sealed in case {case} was changed, or was sealed for another case"
    )]
    Broken {
        /// The case that it was found in.
        case: CaseId,
    },
    /// It opened, and what is in it cannot be read.
    #[error(
        "what is sealed in case {case} was sealed by another version of Duet and cannot be read: run the same version in prepare and publish"
    )]
    Unreadable {
        /// The case that it was found in.
        case: CaseId,
    },
}

impl OpenError {
    /// As it is counted.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoKeys { .. } => "unchecked",
            Self::UnknownKey { .. } => "unknown_key",
            Self::Broken { .. } | Self::Unreadable { .. } => "broken",
        }
    }
}

/// Opens with all keys of a file. A key that is not known is looked for in the file again, so that a rotation needs no new
/// start.
pub struct Opener {
    path: PathBuf,
    keys: Mutex<(Option<KeyFile>, Option<Instant>)>,
}

impl Opener {
    /// With the keys of the file.
    ///
    /// # Errors
    ///
    /// As [`KeyFile::load`].
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let keys = Some(KeyFile::load(path)?);
        Ok(Self { path: path.to_owned(), keys: Mutex::new((keys, None)) })
    }

    /// With the keys of a file that may not be there yet.
    pub fn waiting(path: &Path) -> Self {
        let keys = KeyFile::load(path).ok();
        Self { path: path.to_owned(), keys: Mutex::new((keys, None)) }
    }

    /// What was sealed for `case` and `purpose`.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open<T: DeserializeOwned>(
        &self,
        case: &CaseId,
        purpose: Purpose,
        sealed: &Sealed,
    ) -> Result<T, OpenError> {
        let broken = || OpenError::Broken { case: case.clone() };
        let mut text = {
            // Every change is whole before the lock is let go.
            let mut held = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            let (keys, looked) = &mut *held;
            let is_known = keys.as_ref().is_some_and(|keys| keys.find(&sealed.key).is_some());
            if !is_known && looked.is_none_or(|last| last.elapsed() >= LOOK_AGAIN) {
                *looked = Some(Instant::now());
                if let Ok(read) = KeyFile::load(&self.path) {
                    *keys = Some(read);
                }
            }
            let keys =
                keys.as_ref().ok_or_else(|| OpenError::NoKeys { path: self.path.clone() })?;
            let key = keys.find(&sealed.key).ok_or_else(|| OpenError::UnknownKey {
                // It comes out of a record: no more of it than an id has.
                key: sealed.key.chars().filter(char::is_ascii_graphic).take(16).collect(),
                path: self.path.clone(),
                have: keys.ids().join(", "),
            })?;
            let mut data = STANDARD.decode(&sealed.data).map_err(|_| broken())?;
            let text = data.split_off(data.len().min(NONCE_LEN));
            let nonce = Nonce::try_assume_unique_for_key(&data).map_err(|_| broken())?;
            let bound = Aad::from(bound_to(case, purpose, &sealed.key));
            let mut text = text;
            let length =
                key.cipher().open_in_place(nonce, bound, &mut text).map_err(|_| broken())?.len();
            text.truncate(length);
            text
        };
        let content =
            serde_json::from_slice(&text).map_err(|_| OpenError::Unreadable { case: case.clone() });
        text.fill(0);
        content
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use super::*;
    use crate::Sealer;

    type Content = BTreeMap<String, String>;

    fn content() -> Content {
        BTreeMap::from([("patient_id".to_owned(), "ZZMARKID".to_owned())])
    }

    fn case(of: u8) -> CaseId {
        CaseId::of_input(&[of])
    }

    struct Place {
        _folder: tempfile::TempDir,
        path: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("sealing.keys");
            Self { _folder: folder, path }
        }

        fn seal(&self) -> Sealed {
            let sealer = Sealer::load_or_create(&self.path).unwrap();
            sealer.seal(&case(1), Purpose::Filing, &content()).unwrap()
        }

        fn open(&self, of: u8, sealed: &Sealed) -> Result<Content, OpenError> {
            Opener::load(&self.path).unwrap().open(&case(of), Purpose::Filing, sealed)
        }
    }

    #[test]
    fn what_was_sealed_opens_and_shows_nothing_before() {
        let place = Place::new();
        let (one, two) = (place.seal(), place.seal());
        assert_ne!(one, two, "the nonce is random");
        assert_eq!(place.open(1, &one).unwrap(), content());
        assert_eq!(place.open(1, &two).unwrap(), content());
        let shown = format!("{one:?}");
        let raw = STANDARD.decode(&one.data).unwrap();
        assert!(!shown.contains("ZZMARK") && !raw.windows(6).any(|part| part == b"ZZMARK"));
        // Nonce, filled-up text, tag: the length tells nothing.
        assert_eq!(raw.len(), NONCE_LEN + 256 + 16);
    }

    #[test]
    fn what_was_changed_or_belongs_to_another_case_does_not_open() {
        let place = Place::new();
        let sealed = place.seal();
        let broken = |of| Err(OpenError::Broken { case: case(of) });
        assert_eq!(place.open(2, &sealed), broken(2), "another case");
        let raw = STANDARD.decode(&sealed.data).unwrap();
        for at in 0..raw.len() {
            let mut raw = raw.clone();
            raw[at] ^= 1;
            let changed = Sealed { data: STANDARD.encode(raw), ..sealed.clone() };
            assert_eq!(place.open(1, &changed), broken(1), "byte {at}");
        }
        for data in ["", "AAAA", "no base64!", &STANDARD.encode(&raw[..raw.len() - 1])] {
            let changed = Sealed { data: data.to_owned(), ..sealed.clone() };
            assert_eq!(place.open(1, &changed), broken(1), "{data}");
        }
    }

    #[test]
    fn another_key_is_told_by_its_id_and_never_tried() {
        let (place, other) = (Place::new(), Place::new());
        let sealed = place.seal();
        let own = other.seal().key;
        let error = other.open(1, &sealed).unwrap_err();
        let words = error.to_string();
        assert!(matches!(error, OpenError::UnknownKey { .. }), "{words}");
        for says in [&sealed.key, &own, "prepare.sealing_key_file"] {
            assert!(words.contains(says), "{words}");
        }
        // The right id before another key's seal.
        let renamed = Sealed { key: own, ..sealed };
        assert_eq!(other.open(1, &renamed), Err(OpenError::Broken { case: case(1) }));
    }

    #[test]
    fn after_a_rotation_both_open_without_a_new_start_until_the_old_key_is_removed() {
        let place = Place::new();
        let old = place.seal();
        let opener = Opener::load(&place.path).unwrap();
        KeyFile::rotate(&place.path).unwrap();
        let new = place.seal();
        assert_ne!(old.key, new.key);
        for sealed in [&old, &new] {
            let opened: Content = opener.open(&case(1), Purpose::Filing, sealed).unwrap();
            assert_eq!(opened, content());
        }
        // The first key alone.
        let text = fs::read_to_string(&place.path).unwrap();
        let lines: Vec<_> = text.lines().take(2).collect();
        fs::write(&place.path, lines.join("\n")).unwrap();
        assert_eq!(place.open(1, &new).unwrap(), content());
        assert!(matches!(place.open(1, &old), Err(OpenError::UnknownKey { .. })));
    }

    #[test]
    fn a_file_that_comes_later_is_found() {
        let place = Place::new();
        let opener = Opener::waiting(&place.path);
        let stranger = Sealed { key: "k-0".to_owned(), data: String::new() };
        let opened = opener.open::<Content>(&case(1), Purpose::Filing, &stranger);
        assert_eq!(opened, Err(OpenError::NoKeys { path: place.path.clone() }));
        let sealed = place.seal();
        std::thread::sleep(LOOK_AGAIN);
        assert_eq!(opener.open::<Content>(&case(1), Purpose::Filing, &sealed), Ok(content()));
    }
}
