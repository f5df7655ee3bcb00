//! A graph together with what its manifest says of its input: from picture to numbers.

use duet_case::ModelRef;
use duet_imaging::squash;
use image::GrayImage;

use crate::{
    Manifest,
    manifest::InputSpec,
    tract::{Graph, GraphError, GraphRunError, Wanted},
};

/// Why a model gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// The picture has no pixels.
    #[error(
        "model {model} was given a picture of {width}x{height} pixels: there is nothing to see"
    )]
    EmptyPicture {
        /// The model.
        model: String,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// The graph failed.
    #[error("model {model} gave no answer: {source}")]
    Graph {
        /// The model.
        model: String,
        /// Why.
        source: GraphRunError,
    },
    /// Finite numbers went in, and something else came out of the calibration.
    #[error(
        "model {model} gave no probability for {subject}: correct its scale and bias in model.toml"
    )]
    NotAProbability {
        /// The model.
        model: String,
        /// Question or label.
        subject: String,
    },
}

/// A loaded graph with its preprocessing.
pub(crate) struct Network {
    pub(crate) model: ModelRef,
    input: InputSpec,
    graph: Graph,
}

impl Network {
    pub(crate) fn load(
        manifest: &Manifest,
        onnx: &[u8],
        outputs: &[Wanted<'_>],
    ) -> Result<Self, GraphError> {
        let input = manifest.input;
        let shape = [1, 1, input.height as usize, input.width as usize];
        let graph = Graph::load(onnx, shape, outputs)?;
        Ok(Self { model: manifest.model_ref(), input, graph })
    }

    /// The shape of one output, in the order given to [`Network::load`].
    pub(crate) fn shape(&self, index: usize) -> &[usize] {
        self.graph.shape(index)
    }

    /// Squashes the picture to the model's input and runs the graph; `N` outputs, in the order given to
    /// [`Network::load`].
    pub(crate) fn run<const N: usize>(
        &self,
        picture: &GrayImage,
    ) -> Result<[Vec<f32>; N], InferenceError> {
        let model = || self.model.name.clone();
        let (width, height) = picture.dimensions();
        if width == 0 || height == 0 {
            return Err(InferenceError::EmptyPicture { model: model(), width, height });
        }
        let InputSpec { width, height, mean, std } = self.input;
        let plane = squash(picture, width, height, mean, std);
        let graph = |source| InferenceError::Graph { model: model(), source };
        let outputs = self.graph.run(&plane).map_err(graph)?;
        outputs.try_into().map_err(|_| {
            let failed = "it has another number of outputs than was asked for";
            graph(GraphRunError::Failed(failed.into()))
        })
    }

    /// A probability that calibration did not give.
    pub(crate) fn no_probability(&self, subject: &str) -> InferenceError {
        InferenceError::NotAProbability {
            model: self.model.name.clone(),
            subject: subject.to_owned(),
        }
    }
}
