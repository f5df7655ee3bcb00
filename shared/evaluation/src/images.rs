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
        /// The one folder that every entry is in, with its slash; empty where there is none.
        top: String,
    },
}

/// Where the archive has an image of that name: as it is, or in the one folder that was archived.
fn place<'a>(
    entries: &'a HashMap<String, (u64, u64)>,
    top: &str,
    file: &str,
) -> Option<&'a (u64, u64)> {
    let file = file.trim_start_matches("./");
    entries.get(file).or_else(|| entries.get(&format!("{top}{file}")))
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
            let top = top(entries.keys().map(String::as_str));
            Place::Archive { file, entries, top }
        };
        Ok(Self { path: path.to_owned(), limit, place })
    }

    /// Whether `file` is there.
    ///
    /// # Errors
    ///
    /// Where it is not.
    pub fn look(&self, file: &str) -> Result<(), ImagesError> {
        let there = match &self.place {
            Place::Folder => self.path.join(file).is_file(),
            Place::Archive { entries, top, .. } => place(entries, top, file).is_some(),
        };
        let missing = || ImagesError::Missing { file: file.to_owned(), path: self.path.clone() };
        there.then_some(()).ok_or_else(missing)
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
            Place::Archive { file: archive, entries, top } => {
                let &(start, size) = place(entries, top, file).ok_or_else(missing)?;
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

/// The folder that all of `names` are in, with its slash; empty where they are not in one.
fn top<'a>(mut names: impl Iterator<Item = &'a str>) -> String {
    let first = names.next().and_then(|name| name.split_once('/')).map(|(folder, _)| folder);
    let Some(folder) = first.map(|folder| format!("{folder}/")) else { return String::new() };
    if names.all(|name| name.starts_with(&folder)) { folder } else { String::new() }
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
            assert!(images.look("a.png").is_ok() && images.look("c.png").is_err());
            let message = images.read("c.png").unwrap_err().to_string();
            assert!(message.contains("\"c.png\" is not in"), "{message}");
        }
    }

    /// `tar cf films.tar films/` as well as one with folders that the table names.
    #[test]
    fn folders_in_an_archive_are_those_of_the_table_or_the_one_that_was_archived() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images.tar");
        for (names, read, missing) in [
            (["films/a.png", "films/x/b.png"], ["a.png", "x/b.png"], "b.png"),
            (["films/a.png", "films/x/b.png"], ["films/a.png", "./films/x/b.png"], "x/a.png"),
            (["one/a.png", "two/a.png"], ["one/a.png", "two/a.png"], "a.png"),
        ] {
            let mut builder = tar::Builder::new(File::create(&path).unwrap());
            for name in names {
                let mut header = tar::Header::new_gnu();
                header.set_size(name.len() as u64);
                builder.append_data(&mut header, name, name.as_bytes()).unwrap();
            }
            builder.finish().unwrap();
            let mut images = Images::open(&path, 99).unwrap();
            for (name, read) in names.iter().zip(read) {
                images.look(read).unwrap();
                assert_eq!(images.read(read).unwrap(), name.as_bytes());
            }
            assert!(images.look(missing).is_err() && images.read(missing).is_err(), "{missing}");
        }
    }

    #[test]
    fn what_is_neither_is_refused_by_name() {
        let message = Images::open(Path::new("/no/such/place"), 8).err().unwrap().to_string();
        assert!(message.contains("/no/such/place") && message.contains(".tar"), "{message}");
    }
}
