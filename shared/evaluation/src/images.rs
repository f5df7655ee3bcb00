//! Images by name, from a folder or from a tar archive.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// Why images cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// Neither a folder nor an archive that can be read.
    #[error("the images at {path} cannot be read: {source}; give a folder or a .tar archive", path = path.display())]
    Open {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A row of the table names an image that is not there.
    #[error("{file:?} is not in {path}; the table of labels and the images do not belong together", path = path.display())]
    Missing {
        /// As the table names it.
        file: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// An image that is there and cannot be read.
    #[error("{file:?} cannot be read: {source}")]
    Read {
        /// As the table names it.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// Larger than any image that Duet reads.
    #[error("{file:?} has {bytes} bytes, more than the {limit} that an image may have")]
    TooLarge {
        /// As the table names it.
        file: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

/// Images by name.
pub struct Images {
    path: PathBuf,
    limit: u64,
    place: Place,
}

enum Place {
    Folder,
    /// Where each entry's bytes begin, and how many there are.
    Archive {
        file: File,
        entries: HashMap<String, (u64, u64)>,
    },
}

impl Images {
    /// Opens a folder or a tar archive whose images have at most `limit` bytes each.
    ///
    /// # Errors
    ///
    /// Where `path` is neither.
    pub fn open(path: &Path, limit: u64) -> Result<Self, ImagesError> {
        let failed = |source| ImagesError::Open { path: path.to_owned(), source };
        let place = if path.is_dir() {
            Place::Folder
        } else {
            let file = File::open(path).map_err(failed)?;
            let entries = entries(&file).map_err(failed)?;
            Place::Archive { file, entries }
        };
        Ok(Self { path: path.to_owned(), limit, place })
    }

    /// The bytes of `file`.
    ///
    /// # Errors
    ///
    /// Where it is missing, unreadable or too large.
    pub fn read(&mut self, file: &str) -> Result<Vec<u8>, ImagesError> {
        let missing = || ImagesError::Missing { file: file.to_owned(), path: self.path.clone() };
        let unreadable = |source| ImagesError::Read { file: file.to_owned(), source };
        let mut bytes = Vec::new();
        let limit = self.limit;
        let within = |size: u64| match size {
            size if size > limit => {
                Err(ImagesError::TooLarge { file: file.to_owned(), bytes: size, limit })
            }
            size => Ok(size),
        };
        match &mut self.place {
            Place::Folder => {
                let path = self.path.join(file);
                let found = File::open(&path).map_err(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => missing(),
                    _ => unreadable(error),
                })?;
                let size = within(found.metadata().map_err(unreadable)?.len())?;
                found.take(size).read_to_end(&mut bytes).map_err(unreadable)?;
            }
            Place::Archive { file: archive, entries } => {
                let &(start, size) = entries.get(file).ok_or_else(missing)?;
                within(size)?;
                archive.seek(SeekFrom::Start(start)).map_err(unreadable)?;
                archive.take(size).read_to_end(&mut bytes).map_err(unreadable)?;
            }
        }
        Ok(bytes)
    }
}

fn entries(file: &File) -> std::io::Result<HashMap<String, (u64, u64)>> {
    let mut archive = tar::Archive::new(file);
    let mut entries = HashMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entry.header().entry_type().is_file() {
            let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            entries.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive_of(folder: &Path) -> PathBuf {
        let path = folder.join("images.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        for name in ["a.png", "b.png"] {
            builder.append_path_with_name(folder.join(name), name).unwrap();
        }
        builder.finish().unwrap();
        path
    }

    #[test]
    fn a_folder_and_an_archive_of_it_hold_the_same() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.png"), b"first").unwrap();
        std::fs::write(folder.path().join("b.png"), b"the second").unwrap();
        let archive = archive_of(folder.path());
        for place in [folder.path(), &archive] {
            let mut images = Images::open(place, 8).unwrap();
            assert_eq!(images.read("a.png").unwrap(), b"first");
            assert!(matches!(images.read("b.png"), Err(ImagesError::TooLarge { bytes: 10, .. })));
            let message = images.read("c.png").unwrap_err().to_string();
            assert!(message.contains("\"c.png\" is not in"), "{message}");
        }
    }

    #[test]
    fn what_is_neither_is_refused_by_name() {
        let message = Images::open(Path::new("/no/such/place"), 8).err().unwrap().to_string();
        assert!(message.contains("/no/such/place") && message.contains(".tar"), "{message}");
    }
}
