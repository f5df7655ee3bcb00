//! A specialist on tract: logits, calibrated probabilities and one activation map a label.

use duet_case::ModelRef;
use image::GrayImage;

use crate::{
    Accepts, ActivationMap, Classification, Classifier, ClassifierSpec, InferenceError, Label,
    LabelResult, Manifest,
    network::Network,
    tract::{GraphError, Wanted},
};

pub(crate) struct MultiLabel {
    network: Network,
    accepts: Accepts,
    labels: Vec<Label>,
    calibrated: bool,
}

impl MultiLabel {
    pub(crate) fn load(
        manifest: &Manifest,
        spec: &ClassifierSpec,
        onnx: &[u8],
    ) -> Result<Self, GraphError> {
        let labels = Some(spec.labels.len());
        let outputs = [
            Wanted { name: &spec.logits, shape: &[Some(1), labels] },
            Wanted { name: &spec.cam, shape: &[Some(1), labels, None, None] },
        ];
        Ok(Self {
            network: Network::load(manifest, spec.input, onnx, &outputs)?,
            accepts: spec.accepts.clone(),
            labels: spec.labels.clone(),
            calibrated: manifest.calibration.is_some(),
        })
    }
}

impl Classifier for MultiLabel {
    fn model(&self) -> &ModelRef {
        &self.network.model
    }

    fn accepts(&self) -> &Accepts {
        &self.accepts
    }

    fn labels(&self) -> &[Label] {
        &self.labels
    }

    fn calibrated(&self) -> bool {
        self.calibrated
    }

    fn classify(&self, picture: &GrayImage) -> Result<Classification, InferenceError> {
        let [logits, maps] = self.network.run(picture)?;
        let area = self.network.seen(picture);
        let &[_, _, height, width] = self.network.shape(1) else {
            return Err(self.network.no_probability("the activation maps"));
        };
        let results = self.labels.iter().zip(&logits).zip(maps.chunks_exact(height * width)).map(
            |((label, logit), map)| {
                let logit = f64::from(*logit);
                let probability = label
                    .platt
                    .probability(logit)
                    .ok_or_else(|| self.network.no_probability(&label.name))?;
                // Sides are at most 4096, as the graph was checked.
                let map = ActivationMap {
                    width: width as u32,
                    height: height as u32,
                    values: map.to_vec(),
                    area,
                };
                Ok(LabelResult { logit, probability, map })
            },
        );
        Ok(Classification { labels: results.collect::<Result<_, _>>()? })
    }
}

/// Whether each label's map explains its logit: the logit less the map's mean is one and the same constant on every
/// picture. A graph whose labels and maps are in different orders, or whose map is another output, fails here.
pub(crate) fn maps_explain_logits(a: &Classification, b: &Classification) -> Option<usize> {
    let constant = |result: &LabelResult| {
        let sum: f64 = result.map.values.iter().map(|value| f64::from(*value)).sum();
        result.logit - sum / result.map.values.len().max(1) as f64
    };
    a.labels.iter().zip(&b.labels).position(|(a, b)| {
        let scale = a.logit.abs().max(b.logit.abs()).max(1.0);
        (constant(a) - constant(b)).abs() > 1e-2 * scale
    })
}
