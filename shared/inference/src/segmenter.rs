//! A specialist that draws areas: for each label a probability by pixel.

use duet_case::ModelRef;
use image::{GrayImage, Luma};

use crate::{
    Accepts, InferenceError, Label, Manifest, SegmentationSpec,
    network::Network,
    tract::{GraphError, Wanted},
};

/// A segmentation model on tract.
pub struct Segmenter {
    network: Network,
    accepts: Accepts,
    labels: Vec<Label>,
}

/// One label's area in the model's own grid, which covers the whole picture evenly.
pub type Mask = image::ImageBuffer<Luma<f32>, Vec<f32>>;

impl Segmenter {
    pub(crate) fn load(
        manifest: &Manifest,
        spec: &SegmentationSpec,
        onnx: &[u8],
    ) -> Result<Self, GraphError> {
        let shape = [Some(1), Some(spec.labels.len()), None, None];
        let outputs = [Wanted { name: &spec.masks, shape: &shape }];
        Ok(Self {
            network: Network::load(manifest, spec.input, onnx, &outputs)?,
            accepts: spec.accepts.clone(),
            labels: spec.labels.clone(),
        })
    }

    /// Who draws.
    pub fn model(&self) -> &ModelRef {
        &self.network.model
    }

    /// Which images it takes.
    pub fn accepts(&self) -> &Accepts {
        &self.accepts
    }

    /// What it draws.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// For each label, in the order of [`Segmenter::labels`], the probability of each pixel of the model's grid.
    ///
    /// # Errors
    ///
    /// Where the picture is empty or the model gives no finite numbers.
    pub fn segment(&self, picture: &GrayImage) -> Result<Vec<Mask>, InferenceError> {
        let [masks] = self.network.run(picture)?;
        let &[_, _, height, width] = self.network.shape(0) else {
            return Err(self.network.no_probability("the masks"));
        };
        self.labels
            .iter()
            .zip(masks.chunks_exact(height * width))
            .map(|(label, logits)| {
                let probability = |logit: &f32| {
                    label.platt.probability(f64::from(*logit)).map(|p| p.value() as f32)
                };
                let values: Option<Vec<f32>> = logits.iter().map(probability).collect();
                // Sides are at most 4096, as the graph was checked.
                values
                    .and_then(|values| Mask::from_raw(width as u32, height as u32, values))
                    .ok_or_else(|| self.network.no_probability(&label.name))
            })
            .collect()
    }
}
