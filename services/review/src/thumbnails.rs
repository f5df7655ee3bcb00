//! Small pictures for the list, made from renditions on the compute pool and kept while they fit.

use std::{
    collections::{BTreeMap, HashMap},
    io::Cursor,
    sync::{Mutex, PoisonError},
};

use axum::http::HeaderMap;
use bytes::Bytes;
use duet_case::{BlobRef, Digest};
use duet_stage::{
    compute,
    web::{CaseReader, Problem, ProblemKind, picture_headers},
};
use image::{ImageFormat, ImageReader, Limits, imageops::FilterType};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::Config;

/// A rendition's long side is 1024 px at most; one of four times that is none of ours.
const LARGEST_SIDE: u32 = 4096;
/// Renditions that are in memory for this at the same time.
const AT_ONCE: usize = 4;

pub(crate) struct Thumbnails {
    side: u32,
    cache_bytes: usize,
    kept: Mutex<Kept>,
    places: Semaphore,
}

/// The least recently used go first.
#[derive(Default)]
struct Kept {
    pictures: HashMap<Digest, (u64, Bytes)>,
    used: BTreeMap<u64, Digest>,
    clock: u64,
    bytes: usize,
}

impl Kept {
    fn get(&mut self, digest: &Digest) -> Option<Bytes> {
        let (used, picture) = self.pictures.get_mut(digest)?;
        self.used.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.used.insert(self.clock, *digest);
        Some(picture.clone())
    }

    fn put(&mut self, digest: Digest, picture: Bytes, limit: usize) {
        if self.get(&digest).is_some() {
            return;
        }
        self.clock += 1;
        self.bytes += picture.len();
        self.used.insert(self.clock, digest);
        self.pictures.insert(digest, (self.clock, picture));
        while self.bytes > limit {
            let Some((_, oldest)) = self.used.pop_first() else { return };
            if let Some((_, picture)) = self.pictures.remove(&oldest) {
                self.bytes -= picture.len();
            }
        }
    }
}

impl Thumbnails {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            side: config.thumbnail_px,
            cache_bytes: config.thumbnail_cache_bytes,
            kept: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
        }
    }

    /// The thumbnail of `rendition`, as an answer's headers and body.
    pub(crate) async fn of(
        &self,
        reader: &CaseReader,
        rendition: &BlobRef,
    ) -> Result<(HeaderMap, Bytes), Problem> {
        let headers = picture_headers(&format!("\"{}-{}\"", rendition.sha256, self.side), false);
        if let Some(picture) = self.kept().get(&rendition.sha256) {
            return Ok((headers, picture));
        }
        let _place = self.places.acquire().await;
        let full = reader.read_blob(rendition).await?;
        let side = self.side;
        let shrunk = compute::run(move || shrink(&full, side)).await;
        let picture = match shrunk {
            Ok(Ok(picture)) => Bytes::from(picture),
            Ok(Err(error)) => return Err(defect(rendition, &error)),
            Err(crashed) => return Err(defect(rendition, &crashed)),
        };
        self.kept().put(rendition.sha256, picture.clone(), self.cache_bytes);
        Ok((headers, picture))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn defect(rendition: &BlobRef, error: &dyn std::error::Error) -> Problem {
    warn!(rendition = %rendition.sha256, %error, "no thumbnail can be made");
    Problem::new(ProblemKind::Internal)
}

fn shrink(png: &[u8], side: u32) -> Result<Vec<u8>, image::ImageError> {
    let mut reader = ImageReader::with_format(Cursor::new(png), ImageFormat::Png);
    let mut limits = Limits::default();
    limits.max_image_width = Some(LARGEST_SIDE);
    limits.max_image_height = Some(LARGEST_SIDE);
    reader.limits(limits);
    let full = reader.decode()?.into_luma8();
    let (width, height) = full.dimensions();
    let scale = f64::from(side) / f64::from(width.max(height).max(1));
    let shrunk = |length: u32| ((f64::from(length) * scale.min(1.0)).round() as u32).max(1);
    let small = image::imageops::resize(&full, shrunk(width), shrunk(height), FilterType::Triangle);
    let mut bytes = Vec::new();
    small.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_make_room() {
        let name = |n: u8| Digest::of(&[n]);
        let mut kept = Kept::default();
        for n in 0..3 {
            kept.put(name(n), Bytes::from(vec![n; 10]), 30);
        }
        assert!(kept.get(&name(0)).is_some());
        kept.put(name(3), Bytes::from(vec![3; 10]), 30);
        let held: Vec<_> = (0..4).map(|n| kept.get(&name(n)).is_some()).collect();
        assert_eq!(held, [true, false, true, true]);
        assert_eq!(kept.bytes, 30);
    }

    #[test]
    fn a_picture_keeps_its_shape_and_is_never_enlarged() {
        let png = |width, height| {
            let mut bytes = Vec::new();
            let picture = image::GrayImage::from_pixel(width, height, image::Luma([90]));
            picture.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
            bytes
        };
        for ((width, height), expected) in
            [((800, 400), (160, 80)), ((30, 60), (30, 60)), ((4096, 1), (160, 1))]
        {
            let small = shrink(&png(width, height), 160).unwrap();
            let small = image::load_from_memory(&small).unwrap();
            assert_eq!((small.width(), small.height()), expected);
        }
        assert!(shrink(&png(4097, 2), 160).is_err(), "larger than any rendition");
        assert!(shrink(b"no picture", 160).is_err());
    }
}
