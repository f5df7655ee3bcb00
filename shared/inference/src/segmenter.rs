//! A specialist that draws areas: for each label its log-odds by pixel.

use duet_case::ModelRef;
use image::{GrayImage, Luma};

use crate::{
    Accepts, InferenceError, Label, Manifest, Segmentation, SegmentationSpec,
    network::Network,
    tract::{GraphError, Wanted},
};

pub(crate) struct Segmenter {
    network: Network,
    accepts: Accepts,
    labels: Vec<Label>,
}

/// One label's log-odds in the model's own grid, which covers the whole picture evenly: above zero is inside.
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
}

impl Segmentation for Segmenter {
    fn model(&self) -> &ModelRef {
        &self.network.model
    }

    fn accepts(&self) -> &Accepts {
        &self.accepts
    }

    fn labels(&self) -> &[Label] {
        &self.labels
    }

    fn segment(&self, picture: &GrayImage) -> Result<Vec<Mask>, InferenceError> {
        let [masks] = self.network.run(picture)?;
        let &[_, _, height, width] = self.network.shape(0) else {
            return Err(self.network.no_probability("the masks"));
        };
        self.labels
            .iter()
            .zip(masks.chunks_exact(height * width))
            .map(|(label, logits)| {
                let odds = |logit: &f32| {
                    Some(label.platt.log_odds(f64::from(*logit)) as f32)
                        .filter(|own| own.is_finite())
                };
                let values: Option<Vec<f32>> = logits.iter().map(odds).collect();
                // Sides are at most 4096, as the graph was checked.
                values
                    .and_then(|values| Mask::from_raw(width as u32, height as u32, values))
                    .ok_or_else(|| self.network.no_probability(&label.name))
            })
            .collect()
    }
}
