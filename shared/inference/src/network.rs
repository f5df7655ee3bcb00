//! A graph together with what its manifest says of its input: from picture to numbers.

use duet_case::ModelRef;
use duet_imaging::squash;
use image::GrayImage;

use crate::{
    Manifest, PictureArea,
    manifest::{Fit, InputSpec},
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
        input: InputSpec,
        onnx: &[u8],
        outputs: &[Wanted<'_>],
    ) -> Result<Self, GraphError> {
        let shape = [1, 1, input.height as usize, input.width as usize];
        let graph = Graph::load(onnx, shape, outputs)?;
        Ok(Self { model: manifest.model_ref(), input, graph })
    }

    /// The shape of one output, in the order given to [`Network::load`].
    pub(crate) fn shape(&self, index: usize) -> &[usize] {
        self.graph.shape(index)
    }

    /// Brings the picture to the model's input and runs the graph; `N` outputs, in the order given to
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
        let plane = self.input.of(picture);
        let graph = |source| InferenceError::Graph { model: model(), source };
        let outputs = self.graph.run(&plane).map_err(graph)?;
        outputs.try_into().map_err(|_| {
            let failed = "it has another number of outputs than was asked for";
            graph(GraphRunError::Failed(failed.into()))
        })
    }

    /// The part of a picture that the model sees.
    pub(crate) fn seen(&self, picture: &GrayImage) -> PictureArea {
        self.input.seen(picture.dimensions())
    }

    /// A probability that calibration did not give.
    pub(crate) fn no_probability(&self, subject: &str) -> InferenceError {
        InferenceError::NotAProbability {
            model: self.model.name.clone(),
            subject: subject.to_owned(),
        }
    }
}

impl InputSpec {
    /// A picture as the model takes it: row by row, `width * height` numbers.
    pub fn of(&self, picture: &GrayImage) -> Vec<f32> {
        let Self { width, height, mean, std, fit } = *self;
        match fit {
            Fit::Squash => squash(picture, width, height, mean, std),
            Fit::Crop => {
                let PictureArea { x, y, width: across, height: down } =
                    self.seen(picture.dimensions());
                let middle = image::imageops::crop_imm(picture, x, y, across, down).to_image();
                squash(&middle, width, height, mean, std)
            }
        }
    }

    /// The part of a picture of `size` (width, height) that the model sees.
    pub fn seen(&self, (width, height): (u32, u32)) -> PictureArea {
        let whole = PictureArea { x: 0, y: 0, width, height };
        let (own_width, own_height) = (u64::from(self.width.max(1)), u64::from(self.height.max(1)));
        // As wide and as high as the input's proportions allow; at least one pixel. Both fit into 32 bits, since
        // neither exceeds the picture.
        let across =
            (u64::from(height) * own_width / own_height).clamp(1, u64::from(width.max(1))) as u32;
        let down =
            (u64::from(width) * own_height / own_width).clamp(1, u64::from(height.max(1))) as u32;
        match self.fit {
            Fit::Squash => whole,
            Fit::Crop => PictureArea {
                x: (width / 2).saturating_sub(across / 2),
                y: (height / 2).saturating_sub(down / 2),
                width: across,
                height: down,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_is_the_middle_in_the_inputs_proportions() {
        let input = |width, height, fit| InputSpec { width, height, mean: 0.0, std: 1.0, fit };
        let table = [
            (input(224, 224, Fit::Squash), (300, 200), (0, 0, 300, 200)),
            (input(224, 224, Fit::Crop), (300, 200), (50, 0, 200, 200)),
            (input(224, 224, Fit::Crop), (200, 301), (0, 50, 200, 200)),
            (input(32, 16, Fit::Crop), (300, 100), (50, 0, 200, 100)),
            (input(32, 16, Fit::Crop), (300, 300), (0, 75, 300, 150)),
            (input(2048, 16, Fit::Crop), (1, 9), (0, 4, 1, 1)),
        ];
        for (input, picture, (x, y, width, height)) in table {
            assert_eq!(input.seen(picture), PictureArea { x, y, width, height }, "{input:?}");
        }
        // Three thirds of a picture: the middle one is seen.
        let picture =
            GrayImage::from_fn(48, 16, |x, _| image::Luma([[0, 255, 0][x as usize / 16]]));
        let seen = input(16, 16, Fit::Crop).of(&picture);
        assert!(seen.iter().all(|value| (value - 1.0).abs() < 1e-6), "{seen:?}");
    }
}
