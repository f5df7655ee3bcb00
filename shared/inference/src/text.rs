//! A text model on tract: a text becomes a vector of a generalist's space.

use std::path::Path;

use duet_case::ModelRef;

use crate::{
    FolderError, LoadError, Manifest, TextEncoderSpec,
    folder::{self},
    tract::{GraphRunError, TokenGraph},
    wordpiece::WordPieces,
};

/// Why a text has no vector.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// Nothing is said.
    #[error(
        "the text {text:?} has no words: say what to look for, for instance \"a chest X-ray with a pleural effusion\""
    )]
    NoWords {
        /// The text.
        text: String,
    },
    /// Longer than what the encoder was trained on.
    #[error(
        "the text {text:?} has {pieces} word pieces, and model {model} takes {limit}: say it in fewer words"
    )]
    TooLong {
        /// The model.
        model: String,
        /// The text's beginning.
        text: String,
        /// Its length.
        pieces: usize,
        /// What the model takes.
        limit: usize,
    },
    /// The graph failed.
    #[error("model {model} gave no vector for {text:?}: {source}")]
    Graph {
        /// The model.
        model: String,
        /// The text.
        text: String,
        /// Why.
        source: GraphRunError,
    },
    /// The graph gave a vector of length 0.
    #[error("model {model} gave a vector without a direction for {text:?}")]
    NoDirection {
        /// The model.
        model: String,
        /// The text.
        text: String,
    },
}

/// A text encoder.
pub struct TextEncoder {
    model: ModelRef,
    pieces: WordPieces,
    graph: TokenGraph,
}

impl TextEncoder {
    pub(crate) fn load(
        folder: &Path,
        manifest: &Manifest,
        spec: &TextEncoderSpec,
        onnx: &[u8],
    ) -> Result<Self, LoadError> {
        let model = || manifest.name.clone();
        let vocabulary = folder.join(&spec.vocabulary);
        let pieces = folder::read(vocabulary.clone(), spec.sha256)
            .and_then(|bytes| {
                let parsed = WordPieces::parse(&bytes, spec.lower_case);
                parsed.map_err(|source| FolderError::Vocabulary { file: vocabulary, source })
            })
            .map_err(|source| LoadError::File { model: model(), source })?;
        let graph =
            TokenGraph::load(onnx, spec.max_tokens, &spec.output, spec.dim).map_err(|source| {
                let file = folder.join(&manifest.file);
                LoadError::Graph { model: model(), file, source }
            })?;
        Ok(Self { model: manifest.model_ref(), pieces, graph })
    }

    /// Who embeds.
    pub fn model(&self) -> &ModelRef {
        &self.model
    }

    /// Numbers in a vector.
    pub fn dim(&self) -> usize {
        self.graph.dim()
    }

    /// The text's vector, of length 1.
    ///
    /// # Errors
    ///
    /// Where the text has no words or too many, or the model gives no finite numbers.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, TextError> {
        let numbers = self.pieces.cut(text);
        let (text, model) = (text.chars().take(80).collect::<String>(), self.model.name.clone());
        let (pieces, limit) = (numbers.len(), self.graph.tokens());
        if pieces <= 2 {
            return Err(TextError::NoWords { text });
        }
        if pieces > limit {
            return Err(TextError::TooLong { model, text, pieces, limit });
        }
        let mut vector = match self.graph.mean(&numbers) {
            Ok(vector) => vector,
            Err(source) => return Err(TextError::Graph { model, text, source }),
        };
        let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        if !(length.is_finite() && length > 1e-6) {
            return Err(TextError::NoDirection { model, text });
        }
        for value in &mut vector {
            *value = (f64::from(*value) / length) as f32;
        }
        Ok(vector)
    }
}
