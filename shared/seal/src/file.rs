//! Files with secrets.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom as _, SystemRandom};

/// Makes the file `path` with `text`, which only its owner may read, and the folders above it. Of several processes that
/// do so at once one makes the file, whole, and the others are told [`io::ErrorKind::AlreadyExists`].
///
/// # Errors
///
/// Where the file is there already or cannot be made.
pub fn create_private(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    // Written whole beside its place and linked there: another process sees all of it or nothing, and the first one wins.
    let own = write_beside(path, text)?;
    let linked = fs::hard_link(&own, path);
    fs::remove_file(&own)?;
    linked
}

/// Puts `text` in the place of what is in the file `path`, at one moment.
pub(crate) fn replace_private(path: &Path, text: &str) -> io::Result<()> {
    let own = write_beside(path, text)?;
    fs::rename(&own, path).inspect_err(|_| {
        let _left_behind = fs::remove_file(&own);
    })
}

fn write_beside(path: &Path, text: &str) -> io::Result<PathBuf> {
    let mut random = [0; 4];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("no random numbers"))?;
    let own = path.with_extension(format!("new-{}-{}", std::process::id(), hex::encode(random)));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&own)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| {
        let _left_behind = fs::remove_file(&own);
    })?;
    Ok(own)
}
