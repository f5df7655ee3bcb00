//! What goes between a decoder pool and its child processes: frames of eight bytes of length, little endian, and so many bytes.
//!
//! The pool sends an [`Order`], then files. The child answers the order with an empty frame, and each file with two: an [`Answer`]
//! as JSON, and the rendition's PNG, empty where there is none.

use std::io::{self, Read, Write};

use duet_case::{Source, WindowMethod};
use duet_imaging::{Identifiers, Limits};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// An answer without its picture has some kilobytes. What is longer is none.
pub(super) const MAX_ANSWER: u64 = 1 << 20;

/// A rendition of 1024 x 1024 eight-bit pixels stored without compression is a quarter of it.
pub(super) const MAX_PICTURE: u64 = 4 << 20;

/// What a child has to keep to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) limits: Limits,
    pub(super) memory_bytes: u64,
    /// CPU seconds for one file, after which the kernel ends the child.
    pub(super) cpu_seconds: u64,
}

/// What became of a file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    /// CPU time that it took.
    pub(super) cpu_nanos: u64,
    pub(super) told: Told,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Picture {
        source: Source,
        identifiers: Identifiers,
        width: u32,
        height: u32,
        scale: [f64; 2],
        window: WindowMethod,
        inverted: bool,
    },
    NoPixels {
        source: Source,
        identifiers: Identifiers,
        reason: String,
    },
    Refused {
        class: String,
        message: String,
    },
    /// A decoder was refused memory and could say so.
    OutOfMemory,
}

fn too_long(length: u64, most: u64) -> io::Error {
    let what = format!("a frame of {length} bytes where {most} are the most");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads a frame; `None` at the end of the stream.
pub(super) fn read(from: &mut impl Read, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 8];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u64::from_le_bytes(length);
    if length > most {
        return Err(too_long(length, most));
    }
    let mut frame = Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX));
    from.take(length).read_to_end(&mut frame)?;
    if frame.len() as u64 == length { Ok(Some(frame)) } else { Ok(None) }
}

/// Writes a frame.
pub(super) fn write(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    to.write_all(&(frame.len() as u64).to_le_bytes())?;
    to.write_all(frame)?;
    to.flush()
}

/// Reads a frame of `most` bytes at most. The end of the stream is an error.
pub(super) async fn receive(from: &mut (impl AsyncRead + Unpin), most: u64) -> io::Result<Vec<u8>> {
    let length = from.read_u64_le().await?;
    if length > most {
        return Err(too_long(length, most));
    }
    let mut frame = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    from.read_exact(&mut frame).await?;
    Ok(frame)
}

/// Sends a frame.
pub(super) async fn send(to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    to.write_u64_le(frame.len() as u64).await?;
    to.write_all(frame).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_as_they_went_and_lengths_are_not_believed() {
        let mut bytes = Vec::new();
        for frame in [&b"order"[..], b"", &[7; 5000]] {
            write(&mut bytes, frame).unwrap();
            let mut sent = Vec::new();
            send(&mut sent, frame).await.unwrap();
            assert!(bytes.ends_with(&sent));
        }
        let (mut one, mut other) = (&bytes[..], &bytes[..]);
        for frame in [&b"order"[..], b"", &[7; 5000]] {
            assert_eq!(read(&mut one, 5000).unwrap().as_deref(), Some(frame));
            assert_eq!(receive(&mut other, 5000).await.unwrap(), frame);
        }
        assert!(read(&mut one, 5000).unwrap().is_none());
        assert!(receive(&mut other, 5000).await.is_err());
        // A length beyond the limit is refused before anything is allocated for it.
        let huge = u64::MAX.to_le_bytes();
        assert_eq!(read(&mut &huge[..], 9).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let refused = receive(&mut &huge[..], 9).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}
