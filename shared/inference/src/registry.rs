//! Every model of a folder of models.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use image::GrayImage;

use crate::{
    Classifier, FolderError, GraphError, InferenceError, Kind, Manifest, ManifestError, Segmenter,
    VisionLanguage,
    classifier::{MultiLabel, maps_explain_logits},
    folder::{self, Embeddings},
    generalist::DualEncoder,
    manifest::MANIFEST_FILE,
};

/// Why the models cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder of models cannot be listed.
    #[error("the folder of models {path} cannot be read: {source}; set models.dir (DUET_MODELS_DIR) to it", path = path.display())]
    Dir {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is none.
    #[error("{path} holds no folder with a {MANIFEST_FILE}: set models.dir (DUET_MODELS_DIR) to the folder of models", path = path.display())]
    None {
        /// The folder.
        path: PathBuf,
    },
    /// A manifest is not usable.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A model under another name than its folder's.
    #[error("{manifest} says name = {name:?}, but its folder is called {folder:?}: make them the same", manifest = manifest.display())]
    Name {
        /// The manifest.
        manifest: PathBuf,
        /// As it says.
        name: String,
        /// The folder's name.
        folder: String,
    },
    /// A file is missing, damaged or another one.
    #[error("model {model}: {source}")]
    File {
        /// The model.
        model: String,
        /// Why.
        source: FolderError,
    },
    /// The graph does not match the manifest.
    #[error("model {model}: {file} {source}", file = file.display())]
    Graph {
        /// The model.
        model: String,
        /// The weights.
        file: PathBuf,
        /// Why.
        source: GraphError,
    },
    /// The graph loads and cannot run.
    #[error("model {model} fails on a test picture: {source}")]
    Trial {
        /// The model.
        model: String,
        /// Why.
        source: InferenceError,
    },
    /// A map that belongs to something else.
    #[error(
        "model {model}: the activation map of {label:?} does not explain its logit (the logit must be the map's mean and a constant); check the order of the labels and outputs.cam"
    )]
    Unexplained {
        /// The model.
        model: String,
        /// The label.
        label: String,
    },
}

/// A model that a configuration names and that is not there.
#[derive(Debug, thiserror::Error)]
#[error("there is no {kind} model called {name:?}; models.dir has {known}")]
pub struct MissingModel {
    kind: &'static str,
    name: String,
    known: String,
}

/// Loaded models. Clones share them.
#[derive(Clone)]
pub struct Registry {
    models: Arc<Vec<Entry>>,
}

struct Entry {
    info: ModelInfo,
    engine: Engine,
}

enum Engine {
    VisionLanguage(Arc<DualEncoder>),
    Classifier(Arc<MultiLabel>),
    Segmentation(Arc<Segmenter>),
}

/// What a model is, for listings.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// As its manifest describes it.
    pub manifest: Manifest,
    /// Bytes of its weights.
    pub bytes: u64,
    /// One inference on a blank picture, in one thread, at load.
    pub inference: Duration,
}

/// What became of verifying one folder.
#[derive(Debug)]
pub struct Verification {
    /// The folder's name.
    pub folder: String,
    /// The model, or why it is not usable.
    pub result: Result<ModelInfo, LoadError>,
}

impl Registry {
    /// Loads every folder of `dir` that has a `model.toml`, in the order of their names.
    ///
    /// # Errors
    ///
    /// Where one of them is not usable: by name, with what to do. There is no fallback to another model.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        Self::load_where(dir, |_| true)
    }

    /// The same with those graphs alone whose manifest is `wanted`, for a process that runs one stage. The
    /// manifests of the others are checked all the same.
    ///
    /// # Errors
    ///
    /// As [`Registry::load`].
    pub fn load_where(dir: &Path, wanted: impl Fn(&Manifest) -> bool) -> Result<Self, LoadError> {
        let mut models = Vec::new();
        for folder in folders(dir)? {
            let manifest = manifest_of(&folder)?;
            if wanted(&manifest) {
                models.push(load(&folder, manifest)?);
            }
        }
        Ok(Self { models: Arc::new(models) })
    }

    /// The one model in `folder`.
    ///
    /// # Errors
    ///
    /// As [`Registry::load`].
    pub fn open(folder: &Path) -> Result<Self, LoadError> {
        let manifest = manifest_of(folder)?;
        Ok(Self { models: Arc::new(vec![load(folder, manifest)?]) })
    }

    /// The generalist called `name`.
    ///
    /// # Errors
    ///
    /// Where there is none of that name: never another one in its place.
    pub fn vision_language(&self, name: &str) -> Result<Arc<dyn VisionLanguage>, MissingModel> {
        let found = self.models.iter().find_map(|entry| match &entry.engine {
            Engine::VisionLanguage(model) if entry.info.manifest.name == name => Some(model),
            _ => None,
        });
        let Some(model) = found else {
            let known = self.models.iter().map(|entry| {
                let manifest = &entry.info.manifest;
                format!("{} ({})", manifest.name, manifest.kind.name())
            });
            let known = known.collect::<Vec<_>>().join(", ");
            return Err(MissingModel { kind: "vision-language", name: name.to_owned(), known });
        };
        Ok(Arc::clone(model) as _)
    }

    /// Every classifier.
    pub fn classifiers(&self) -> Vec<Arc<dyn Classifier>> {
        self.models
            .iter()
            .filter_map(|entry| match &entry.engine {
                Engine::Classifier(model) => Some(Arc::clone(model) as _),
                _ => None,
            })
            .collect()
    }

    /// Every segmentation model.
    pub fn segmenters(&self) -> Vec<Arc<Segmenter>> {
        self.models
            .iter()
            .filter_map(|entry| match &entry.engine {
                Engine::Segmentation(model) => Some(Arc::clone(model)),
                _ => None,
            })
            .collect()
    }

    /// What is loaded.
    pub fn list(&self) -> impl Iterator<Item = &ModelInfo> {
        self.models.iter().map(|entry| &entry.info)
    }
}

/// Loads every folder of `dir` by itself and says what became of each.
///
/// # Errors
///
/// Only where `dir` cannot be read or holds no model.
pub fn verify(dir: &Path) -> Result<Vec<Verification>, LoadError> {
    let verified = folders(dir)?.into_iter().map(|folder| Verification {
        folder: name_of(&folder),
        result: manifest_of(&folder)
            .and_then(|manifest| load(&folder, manifest))
            .map(|entry| entry.info),
    });
    Ok(verified.collect())
}

/// The folders that hold a manifest, sorted by name.
fn folders(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |source| LoadError::Dir { path: dir.to_owned(), source };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.join(MANIFEST_FILE).is_file() {
            folders.push(path);
        }
    }
    folders.sort();
    if folders.is_empty() {
        return Err(LoadError::None { path: dir.to_owned() });
    }
    Ok(folders)
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn manifest_of(folder: &Path) -> Result<Manifest, LoadError> {
    let file = folder.join(MANIFEST_FILE);
    let manifest = Manifest::read(&file)?;
    let (name, folder) = (manifest.name.clone(), name_of(folder));
    if name != folder {
        return Err(LoadError::Name { manifest: file, name, folder });
    }
    Ok(manifest)
}

/// The weights' path and bytes, which are those that the manifest means.
pub(crate) fn weights(folder: &Path, manifest: &Manifest) -> Result<(PathBuf, Vec<u8>), LoadError> {
    let path = folder.join(&manifest.file);
    match folder::read(path.clone(), manifest.sha256) {
        Ok(onnx) => Ok((path, onnx)),
        Err(source) => Err(LoadError::File { model: manifest.name.clone(), source }),
    }
}

fn load(folder: &Path, manifest: Manifest) -> Result<Entry, LoadError> {
    let model = || manifest.name.clone();
    let file = |source| LoadError::File { model: model(), source };
    let (path, onnx) = weights(folder, &manifest)?;
    let graph = |source| LoadError::Graph { model: model(), file: path.clone(), source };
    let engine = match &manifest.kind {
        Kind::VisionLanguage(spec) => {
            let embeddings = Embeddings::read(folder, spec).map_err(file)?;
            let encoder = DualEncoder::load(&manifest, spec, &onnx, embeddings).map_err(graph)?;
            Engine::VisionLanguage(Arc::new(encoder))
        }
        Kind::Classifier(spec) => {
            let labels = MultiLabel::load(&manifest, spec, &onnx).map_err(graph)?;
            Engine::Classifier(Arc::new(labels))
        }
        Kind::Segmentation(spec) => {
            let areas = Segmenter::load(&manifest, spec, &onnx).map_err(graph)?;
            Engine::Segmentation(Arc::new(areas))
        }
    };
    let bytes = onnx.len() as u64;
    drop(onnx);
    let inference = try_out(&engine, &manifest)?;
    Ok(Entry { info: ModelInfo { manifest, bytes, inference }, engine })
}

/// Runs the model before anything depends on it, and says how long it took the second time.
fn try_out(engine: &Engine, manifest: &Manifest) -> Result<Duration, LoadError> {
    let model = || manifest.name.clone();
    let failed = |source| LoadError::Trial { model: model(), source };
    let (width, height) = (manifest.input.width, manifest.input.height);
    let blank = GrayImage::new(width, height);
    let ramp = GrayImage::from_fn(width, height, |x, y| image::Luma([(x ^ y) as u8]));
    let start = match engine {
        Engine::VisionLanguage(own) => {
            own.look(&ramp).map_err(failed)?;
            let start = Instant::now();
            own.look(&blank).map_err(failed)?;
            start
        }
        Engine::Classifier(own) => {
            let seen = own.classify(&ramp).map_err(failed)?;
            let start = Instant::now();
            let nothing = own.classify(&blank).map_err(failed)?;
            let elapsed = start.elapsed();
            if let Some(label) = maps_explain_logits(&seen, &nothing) {
                let label = own.labels().get(label).map(|own| own.name.clone()).unwrap_or_default();
                return Err(LoadError::Unexplained { model: model(), label });
            }
            return Ok(elapsed);
        }
        Engine::Segmentation(own) => {
            own.segment(&ramp).map_err(failed)?;
            let start = Instant::now();
            own.segment(&blank).map_err(failed)?;
            start
        }
    };
    Ok(start.elapsed())
}
