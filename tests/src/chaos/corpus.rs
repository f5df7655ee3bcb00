//! What is fed: some films in many files each, files that are fed twice, and bad inputs.
//!
//! Two files of one film differ in a comment or in their UIDs, so they are two cases with the same findings: what a
//! film came to while nothing failed is what every other file of it has to come to.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use duet_testkit::{
    bad::bad_inputs,
    phantoms::{self, DicomOptions, Syntax},
    variants::numbered,
};
use image::GrayImage;

/// Every so many images the one before is fed again, byte for byte.
const AGAIN_EVERY: usize = 10;
/// Every so many images is a bad one.
const BAD_EVERY: usize = 25;

/// A film in the form in which it is fed.
enum Film {
    /// PNG or JPEG.
    Picture(Bytes),
    Dicom(GrayImage, Syntax),
    /// A file that is fed as it is.
    Bad(Bytes),
}

/// Which film an image is of: what came of it while nothing failed is found under the same number.
pub type FilmNumber = usize;

/// What is fed.
pub struct Corpus {
    films: Vec<Film>,
    /// The first so many of the films are good ones.
    good: usize,
    is_drawn: bool,
}

impl Corpus {
    /// `films` drawn radiographs.
    pub fn drawn(films: usize) -> Self {
        let draw = |number: usize| {
            let seed = number as u64;
            match number % 5 {
                4 => phantoms::hand(seed, 200, 220),
                _ => phantoms::chest(seed, 220, 200),
            }
        };
        Self { is_drawn: true, ..Self::of((0..films).map(|number| (draw(number), None))) }
    }

    /// The first `films` pictures, by name, of a folder or a tar archive.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, or holds no picture.
    pub fn read(path: &Path, films: usize) -> Result<Self> {
        let files = if path.is_dir() { folder(path, films) } else { archive(path, films) };
        let files = files.with_context(|| format!("{} cannot be read", path.display()))?;
        let grey = |(name, bytes): (String, Vec<u8>)| {
            let picture = image::load_from_memory(&bytes)
                .with_context(|| format!("{name} is no picture that can be read"))?;
            anyhow::Ok((picture.to_luma8(), Some(bytes)))
        };
        let pictures: Vec<_> = files.into_iter().map(grey).collect::<Result<_>>()?;
        if pictures.is_empty() {
            bail!("{} holds no .png, .jpg or .jpeg file", path.display());
        }
        Ok(Self::of(pictures))
    }

    /// By turns as a PNG or JPEG file (the original, where there is one) and as DICOM; then the bad ones.
    fn of(pictures: impl IntoIterator<Item = (GrayImage, Option<Vec<u8>>)>) -> Self {
        let form =
            |(number, (picture, file)): (usize, (GrayImage, Option<Vec<u8>>))| match number % 6 {
                0 => Film::Picture(phantoms::png8(&picture).into()),
                1 => Film::Dicom(picture, Syntax::Explicit),
                2 => Film::Picture(file.unwrap_or_else(|| phantoms::jpeg(&picture)).into()),
                3 => Film::Dicom(picture, Syntax::Rle),
                4 => Film::Picture(file.unwrap_or_else(|| phantoms::png16(&picture)).into()),
                _ => Film::Dicom(picture, Syntax::Deflated),
            };
        let mut films: Vec<Film> = pictures.into_iter().enumerate().map(form).collect();
        let good = films.len();
        films.extend(bad_inputs().into_iter().map(|input| Film::Bad(input.bytes.into())));
        Self { films, good, is_drawn: false }
    }

    /// What the services' configuration needs for these images, as TOML. Audits are drawn by a case's id, and would
    /// send two files of one film two ways. A drawing is no film to the generalist, but is to go on to the specialists.
    pub fn sections(&self) -> &'static str {
        if self.is_drawn {
            "[triage]\naudit_rate = 0.0\nscope_min = 0.0\n"
        } else {
            "[triage]\naudit_rate = 0.0\n"
        }
    }

    /// How many films there are, bad ones included.
    pub fn films(&self) -> usize {
        self.films.len()
    }

    /// The file of a film that is fed while nothing fails.
    pub fn calm(&self, film: FilmNumber) -> Bytes {
        self.file(film, 0)
    }

    /// The image that is fed at place `number`, from 0, and its film.
    pub fn image(&self, number: usize) -> (FilmNumber, Bytes) {
        let number = if number % AGAIN_EVERY == AGAIN_EVERY - 1 { number - 1 } else { number };
        let bad = self.films.len() - self.good;
        let film = if number % BAD_EVERY == BAD_EVERY / 2 {
            self.good + number / BAD_EVERY % bad
        } else {
            number % self.good
        };
        (film, self.file(film, number as u64 + 1))
    }

    fn file(&self, film: FilmNumber, variant: u64) -> Bytes {
        match &self.films[film] {
            Film::Picture(file) => numbered(file, variant).into(),
            Film::Bad(file) => file.clone(),
            Film::Dicom(picture, syntax) => {
                let options = DicomOptions {
                    syntax: *syntax,
                    study_instance_uid: format!("2.25.{film}.{variant}.1"),
                    series_instance_uid: format!("2.25.{film}.{variant}.2"),
                    sop_instance_uid: format!("2.25.{film}.{variant}.3"),
                    ..DicomOptions::default()
                };
                phantoms::dicom(picture, &options).into()
            }
        }
    }
}

fn is_picture(name: &str) -> bool {
    let name = name.to_lowercase();
    [".png", ".jpg", ".jpeg"].iter().any(|end| name.ends_with(end))
}

fn folder(path: &Path, count: usize) -> Result<Vec<(String, Vec<u8>)>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_picture(&name) {
            names.push(name);
        }
    }
    names.sort();
    names.truncate(count);
    names.into_iter().map(|name| Ok((name.clone(), std::fs::read(path.join(name))?))).collect()
}

fn archive(path: &Path, count: usize) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(File::open(path)?).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        if files.len() == count {
            break;
        }
        if entry.header().entry_type().is_file() && is_picture(&name) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            files.push((name, bytes));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn most_files_are_fed_once_some_twice_and_some_are_bad() {
        let corpus = Corpus::drawn(12);
        let mut times: BTreeMap<Bytes, usize> = BTreeMap::new();
        let mut films = BTreeSet::new();
        for number in 0..200 {
            let (film, bytes) = corpus.image(number);
            films.insert(film);
            if film < corpus.good {
                assert_ne!(bytes, corpus.calm(film), "the calm files are others");
                *times.entry(bytes).or_default() += 1;
            }
        }
        assert!(times.values().filter(|times| **times == 2).count() >= 15);
        assert!(times.values().all(|times| *times <= 2));
        assert!(films.iter().any(|film| *film >= corpus.good), "{films:?}");
    }
}
