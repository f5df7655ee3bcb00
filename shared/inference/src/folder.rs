//! A model's files: read with a cap, checked against the manifest's digests.

use std::{
    collections::HashMap,
    io::Read,
    path::{Path, PathBuf},
};

use duet_case::Digest;

use crate::{Question, VisionLanguageSpec, wordpiece::VocabularyError};

/// Larger than any model that runs on a processor in reasonable time.
const MAX_FILE_BYTES: u64 = 2 << 30;

/// Why a model's file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be read.
    #[error("{file} cannot be read: {source}", file = file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is larger than anything that is read.
    #[error("{file} has more than {MAX_FILE_BYTES} bytes: that is no model of Duet's", file = file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// It is another file than the manifest means.
    #[error("{file} has SHA-256 {found}, but model.toml says {wanted}: fetch it anew, or correct model.toml if you replaced the file on purpose", file = file.display())]
    Digest {
        /// The file.
        file: PathBuf,
        /// As the manifest has it.
        wanted: Digest,
        /// As it is.
        found: Digest,
    },
    /// The vocabulary is none.
    #[error("{file} {source}", file = file.display())]
    Vocabulary {
        /// The file.
        file: PathBuf,
        /// Why.
        source: VocabularyError,
    },
    /// The answers' embeddings do not fit the manifest.
    #[error("{file}: {source}", file = file.display())]
    Prompts {
        /// The file.
        file: PathBuf,
        /// Why.
        source: PromptsError,
    },
}

/// Why the answers' embeddings do not fit the manifest.
#[derive(Debug, thiserror::Error)]
pub enum PromptsError {
    /// Not an object of lists of numbers.
    #[error("is not a JSON object of lists of numbers: {0}")]
    Syntax(#[source] serde_json::Error),
    /// An answer without an embedding.
    #[error("has no embedding for {0:?}, an answer in model.toml: embed its prompts")]
    Missing(String),
    /// An embedding without an answer.
    #[error(
        "has an embedding for {0:?}, which is no answer in model.toml: remove it, or add the answer"
    )]
    Unknown(String),
    /// An embedding of another length.
    #[error("has {found} numbers for {answer:?}, but text.dim in model.toml is {wanted}")]
    Length {
        /// The answer.
        answer: String,
        /// As the manifest has it.
        wanted: usize,
        /// As it is.
        found: usize,
    },
    /// An embedding that is not a unit vector.
    #[error("has a vector of length {found} for {answer:?}: normalise it to length 1")]
    NotNormalised {
        /// The answer.
        answer: String,
        /// Its length.
        found: f64,
    },
}

/// The bytes of `file`, whose digest is `wanted`.
pub(crate) fn read(file: PathBuf, wanted: Digest) -> Result<Vec<u8>, FolderError> {
    let bytes = match read_capped(&file) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(FolderError::TooLarge { file }),
        Err(source) => return Err(FolderError::Unreadable { file, source }),
    };
    match Digest::of(&bytes) {
        found if found == wanted => Ok(bytes),
        found => Err(FolderError::Digest { file, wanted, found }),
    }
}

/// `None` where the file is larger than [`MAX_FILE_BYTES`].
fn read_capped(file: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_FILE_BYTES).then_some(bytes))
}

/// One unit vector for each answer of each question.
#[derive(Debug)]
pub(crate) struct Embeddings(HashMap<String, Vec<f32>>);

impl Embeddings {
    /// Reads them from the model's folder and checks that they are exactly the manifest's.
    pub(crate) fn read(folder: &Path, spec: &VisionLanguageSpec) -> Result<Self, FolderError> {
        let file = folder.join(&spec.text.embeddings);
        let json = read(file.clone(), spec.text.sha256)?;
        Self::parse(&json, spec).map_err(|source| FolderError::Prompts { file, source })
    }

    fn parse(json: &[u8], spec: &VisionLanguageSpec) -> Result<Self, PromptsError> {
        let vectors: HashMap<String, Vec<f32>> =
            serde_json::from_slice(json).map_err(PromptsError::Syntax)?;
        let wanted: Vec<String> = spec
            .questions
            .iter()
            .flat_map(|own| own.answers.iter().map(|answer| key(own.question, &answer.id)))
            .collect();
        if let Some(unknown) = vectors.keys().find(|key| !wanted.contains(key)) {
            return Err(PromptsError::Unknown(unknown.clone()));
        }
        for answer in wanted {
            let Some(vector) = vectors.get(&answer) else {
                return Err(PromptsError::Missing(answer));
            };
            if vector.len() != spec.text.dim {
                let (wanted, found) = (spec.text.dim, vector.len());
                return Err(PromptsError::Length { answer, wanted, found });
            }
            let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            if !(0.999..=1.001).contains(&length) {
                return Err(PromptsError::NotNormalised { answer, found: length });
            }
        }
        Ok(Self(vectors))
    }

    /// The vector of one answer; each is taken once.
    pub(crate) fn take(&mut self, question: Question, answer: &str) -> Vec<f32> {
        self.0.remove(&key(question, answer)).unwrap_or_default()
    }
}

fn key(question: Question, answer: &str) -> String {
    format!("{}/{answer}", question.name())
}
