//! A model outside of any pipeline: numbers in, numbers out, for comparing a graph with the framework that wrote it.

use std::path::Path;

use image::GrayImage;

use crate::{
    GraphRunError, InputSpec, Kind, LoadError, Manifest,
    manifest::MANIFEST_FILE,
    registry,
    tract::{Graph, Wanted},
};

/// One model's graph, with nothing decided of its outputs.
pub struct Probe {
    manifest: Manifest,
    input: InputSpec,
    graph: Graph,
    outputs: Vec<String>,
}

/// One output of a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeOutput {
    /// As in the graph.
    pub name: String,
    /// Its sizes, the batch's 1 first.
    pub shape: Vec<usize>,
    /// Row by row; all finite.
    pub values: Vec<f32>,
}

impl Probe {
    /// Opens the model in `folder`: manifest, digest, input and outputs are checked as at any start.
    ///
    /// # Errors
    ///
    /// Where it is not usable, as [`Registry::load`](crate::Registry::load) says it.
    pub fn open(folder: &Path) -> Result<Self, LoadError> {
        let manifest = Manifest::read(&folder.join(MANIFEST_FILE))?;
        let Some(input) = manifest.kind.input() else {
            return Err(LoadError::NoPictures { model: manifest.name });
        };
        let (path, onnx) = registry::weights(folder, &manifest)?;
        let outputs: Vec<(String, Vec<Option<usize>>)> = match &manifest.kind {
            Kind::VisionLanguage(own) => {
                vec![(own.embedding.clone(), vec![Some(1), Some(own.text.dim)])]
            }
            Kind::Classifier(own) => {
                let labels = Some(own.labels.len());
                vec![
                    (own.logits.clone(), vec![Some(1), labels]),
                    (own.cam.clone(), vec![Some(1), labels, None, None]),
                ]
            }
            Kind::Segmentation(own) => {
                vec![(own.masks.clone(), vec![Some(1), Some(own.labels.len()), None, None])]
            }
            Kind::Text(_) => return Err(LoadError::NoPictures { model: manifest.name }),
        };
        let wanted: Vec<_> = outputs.iter().map(|(name, shape)| Wanted { name, shape }).collect();
        let shape = [1, 1, input.height as usize, input.width as usize];
        let graph = Graph::load(&onnx, shape, &wanted).map_err(|source| LoadError::Graph {
            model: manifest.name.clone(),
            file: path,
            source,
        })?;
        let outputs = outputs.into_iter().map(|(name, _)| name).collect();
        Ok(Self { manifest, input, graph, outputs })
    }

    /// What the manifest says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A picture as the model takes it, row by row.
    pub fn input(&self, picture: &GrayImage) -> Vec<f32> {
        self.input.of(picture)
    }

    /// What the graph makes of an input of `width * height` numbers.
    ///
    /// # Errors
    ///
    /// Where the input has another length, or an output is not finite.
    pub fn run(&self, input: &[f32]) -> Result<Vec<ProbeOutput>, GraphRunError> {
        let values = self.graph.run(input)?;
        let outputs = self.outputs.iter().zip(values).enumerate();
        Ok(outputs
            .map(|(i, (name, values))| ProbeOutput {
                name: name.clone(),
                shape: self.graph.shape(i).to_vec(),
                values,
            })
            .collect())
    }
}
