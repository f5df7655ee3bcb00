//! Keys and the file that they are in.

use std::{
    fmt::{self, Write as _},
    fs, io,
    path::{Path, PathBuf},
};

use duet_case::Digest;
use ring::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};

use crate::file::{create_private, replace_private};

/// What a key file begins with.
const HEAD: &str = "# Keys of Duet's sealed identifiers. The first one seals, all of them open.\n";

/// A key file that cannot be used, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read, made or changed.
    #[error("the file of sealing keys {} cannot be {action}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A line is no key. What it holds is not quoted.
    #[error("line {line} of the file of sealing keys {} is no key: a key is 64 hexadecimal digits, for instance by `duet keys new`", .path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A key stands there twice.
    #[error("line {line} of the file of sealing keys {} has a key that is there already: remove one", .path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// There is no key in it.
    #[error("the file of sealing keys {} holds no key: make one with `duet keys new`", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a sealing key")]
    NoRandomness,
}

/// One key: 32 bytes, never shown.
pub(crate) struct Key {
    id: String,
    bytes: [u8; 32],
    cipher: LessSafeKey,
}

impl Key {
    fn random() -> Result<Self, KeyFileError> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| KeyFileError::NoRandomness)?;
        Self::new(bytes).ok_or(KeyFileError::NoRandomness)
    }

    /// `None` where the cipher takes no such key, which of 32 bytes it always does.
    fn new(bytes: [u8; 32]) -> Option<Self> {
        let digest = Digest::of_parts(&[b"duet/sealing-key", &bytes]).to_string();
        let id = format!("k-{}", digest.get(..12)?);
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).ok()?);
        Some(Self { id, bytes, cipher })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn cipher(&self) -> &LessSafeKey {
        &self.cipher
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// The keys of a file, the one that seals first. There is one at least.
#[derive(Debug)]
pub struct KeyFile {
    keys: Vec<Key>,
}

impl KeyFile {
    /// Reads the file: a key a line, and lines that are empty or begin with `#`.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, holds no key, or something else.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let text = fs::read_to_string(path).map_err(|source| KeyFileError::File {
            path: path.to_owned(),
            action: "read",
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads the file, or makes it with a new key, readable by its owner alone. Several processes that start at once end up
    /// with the same key.
    ///
    /// # Errors
    ///
    /// As [`KeyFile::load`], and where it cannot be made.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        match Self::load(path) {
            Err(KeyFileError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            read => return read,
        }
        match Self::create(path) {
            Err(KeyFileError::File { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists =>
            {
                Self::load(path)
            }
            made => made,
        }
    }

    /// Makes the file with a new key.
    ///
    /// # Errors
    ///
    /// Where it is there already or cannot be made.
    pub fn create(path: &Path) -> Result<Self, KeyFileError> {
        let keys = Self { keys: vec![Key::random()?] };
        create_private(path, &keys.text()).map_err(|source| KeyFileError::File {
            path: path.to_owned(),
            action: "made",
            source,
        })?;
        Ok(keys)
    }

    /// Puts a new key before those of the file, which go on opening what they sealed.
    ///
    /// # Errors
    ///
    /// As [`KeyFile::load`], and where it cannot be written.
    pub fn rotate(path: &Path) -> Result<Self, KeyFileError> {
        let Self { mut keys } = Self::load(path)?;
        keys.insert(0, Key::random()?);
        let keys = Self { keys };
        replace_private(path, &keys.text()).map_err(|source| KeyFileError::File {
            path: path.to_owned(),
            action: "changed",
            source,
        })?;
        Ok(keys)
    }

    /// The ids of the keys, the one that seals first.
    pub fn ids(&self) -> Vec<&str> {
        self.keys.iter().map(Key::id).collect()
    }

    /// The key that seals.
    pub(crate) fn into_first(self) -> Option<Key> {
        self.keys.into_iter().next()
    }

    pub(crate) fn find(&self, id: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, KeyFileError> {
        let mut keys: Vec<Key> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let (line, number) = (line.trim(), at + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut bytes = [0; 32];
            let decoded = hex::decode_to_slice(line, &mut bytes).ok();
            let key = decoded
                .and_then(|()| Key::new(bytes))
                .ok_or(KeyFileError::NotAKey { path: path.to_owned(), line: number })?;
            if keys.iter().any(|known| known.bytes == key.bytes) {
                return Err(KeyFileError::Twice { path: path.to_owned(), line: number });
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyFileError::Empty { path: path.to_owned() });
        }
        Ok(Self { keys })
    }

    fn text(&self) -> String {
        self.keys.iter().fold(HEAD.to_owned(), |mut text, key| {
            let _infallible = writeln!(text, "{}", hex::encode(key.bytes));
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_file_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/sealing.keys");
        let ids: Vec<String> = std::thread::scope(|scope| {
            let make = || KeyFile::load_or_create(&path).unwrap().ids()[0].to_owned();
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let error = KeyFile::create(&path).unwrap_err();
        assert!(error.to_string().contains("sealing.keys"), "{error}");
    }

    #[test]
    fn a_rotated_file_seals_with_the_new_key_and_keeps_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing.keys");
        let old = KeyFile::create(&path).unwrap().ids()[0].to_owned();
        let rotated = KeyFile::rotate(&path).unwrap();
        assert_eq!(rotated.ids().len(), 2);
        assert_eq!(rotated.ids()[1], old);
        assert_eq!(KeyFile::load(&path).unwrap().ids(), rotated.ids());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_key_is_refused_by_file_and_line_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing.keys");
        let key = "ab".repeat(32);
        for (text, says) in [
            ("# nothing\n".to_owned(), "holds no key"),
            (format!("# a key\n{key}\nsecret\n"), "line 3"),
            (format!("{key}\n\n{key}\n"), "line 3"),
            (format!("{key}ab"), "line 1"),
        ] {
            fs::write(&path, text).unwrap();
            let error = KeyFile::load(&path).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("sealing.keys"), "{error}");
            assert!(!error.contains("secret") && !error.contains(&key), "{error}");
        }
        fs::write(&path, &key).unwrap();
        let keys = KeyFile::load(&path).unwrap();
        assert!(!format!("{keys:?}").contains(&key));
    }
}
