//! Every model of a folder of models.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    Classifier, FolderError, GraphError, InferenceError, Kind, Manifest, ManifestError,
    Segmentation, TextEncoder, TextError, VisionLanguage,
    classifier::MultiLabel,
    folder::{self, Embeddings},
    generalist::DualEncoder,
    manifest::MANIFEST_FILE,
    segmenter::Segmenter,
    trial::try_out,
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
    /// A file that does not come with the folder is not there yet.
    #[error("model {model} is not pulled yet ({file} is not there): run `duet models pull {model}`", file = file.display())]
    NotPulled {
        /// The model.
        model: String,
        /// The file.
        file: PathBuf,
        /// Whether services load it; of texts there are models that they do not.
        needed: bool,
    },
    /// One that looks at pictures was wanted.
    #[error("model {model} is for texts: it takes in no pictures")]
    NoPictures {
        /// The model.
        model: String,
    },
    /// There is none of that name.
    #[error(transparent)]
    Missing(#[from] MissingModel),
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
    /// The graph of a text model loads and cannot run.
    #[error("model {model} fails on a test text: {source}")]
    TextTrial {
        /// The model.
        model: String,
        /// Why.
        source: TextError,
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

pub(crate) struct Entry {
    info: ModelInfo,
    engine: Engine,
}

pub(crate) enum Engine {
    VisionLanguage(Arc<DualEncoder>),
    Classifier(Arc<MultiLabel>),
    Segmentation(Arc<Segmenter>),
    Text(Box<TextEncoder>),
}

/// What a model is, for listings.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// As its manifest describes it.
    pub manifest: Manifest,
    /// Bytes of its weights.
    pub bytes: u64,
    /// One inference on a blank picture or a few words, in one thread, at load.
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

/// A folder of a model, unloaded.
#[derive(Debug)]
pub struct Described {
    /// The folder.
    pub folder: PathBuf,
    /// What its manifest says, or what is wrong with that.
    pub manifest: Result<Manifest, LoadError>,
}

impl Registry {
    /// Loads every model of `dir` that looks at pictures, in the order of their folders' names: a folder with a
    /// `model.toml` is a model. Those of texts are for [`text_encoder`].
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
            if manifest.kind.input().is_some() && wanted(&manifest) {
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

    /// As [`Registry::load_where`], with other folders in the place of some models: those of these names are not loaded
    /// from `dir`, and the folders are, whatever they are called.
    ///
    /// # Errors
    ///
    /// As [`Registry::load`].
    pub fn load_replaced(
        dir: &Path,
        replaced: &[(String, PathBuf)],
        wanted: impl Fn(&Manifest) -> bool,
    ) -> Result<Self, LoadError> {
        let is_replaced =
            |manifest: &Manifest| replaced.iter().any(|(own, _)| *own == manifest.name);
        let kept = Self::load_where(dir, |manifest| !is_replaced(manifest) && wanted(manifest))?;
        let mut models = Arc::into_inner(kept.models).unwrap_or_default();
        for (_, folder) in replaced {
            models.push(load(folder, Manifest::read(&folder.join(MANIFEST_FILE))?)?);
        }
        Ok(Self { models: Arc::new(models) })
    }

    /// The generalist called `name`.
    ///
    /// # Errors
    ///
    /// Where there is none of that name: never another one in its place.
    pub fn vision_language(&self, name: &str) -> Result<Arc<dyn VisionLanguage>, MissingModel> {
        Ok(self.dual_encoder(name)? as _)
    }

    /// The same as what it is, whose vectors can be compared with those of other texts.
    ///
    /// # Errors
    ///
    /// Where there is none of that name.
    pub fn dual_encoder(&self, name: &str) -> Result<Arc<DualEncoder>, MissingModel> {
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
        Ok(Arc::clone(model))
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
    pub fn segmenters(&self) -> Vec<Arc<dyn Segmentation>> {
        self.models
            .iter()
            .filter_map(|entry| match &entry.engine {
                Engine::Segmentation(model) => Some(Arc::clone(model) as _),
                _ => None,
            })
            .collect()
    }

    /// What is loaded.
    pub fn list(&self) -> impl Iterator<Item = &ModelInfo> {
        self.models.iter().map(|entry| &entry.info)
    }
}

/// Loads every folder of `dir` whose name is `wanted` by itself and says what became of each.
///
/// # Errors
///
/// Only where `dir` cannot be read or holds no model.
pub fn verify(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Verification>, LoadError> {
    let folders = folders(dir)?.into_iter().filter(|folder| wanted(&name_of(folder)));
    let verified = folders.map(|folder| Verification {
        folder: name_of(&folder),
        result: manifest_of(&folder)
            .and_then(|manifest| load(&folder, manifest))
            .map(|entry| entry.info),
    });
    Ok(verified.collect())
}

/// The manifests of `dir`, or what is wrong with them, each with its folder.
///
/// # Errors
///
/// Only where `dir` cannot be read or holds no model.
pub fn manifests(dir: &Path) -> Result<Vec<Described>, LoadError> {
    let read = |folder: PathBuf| {
        let manifest = manifest_of(&folder);
        Described { folder, manifest }
    };
    Ok(folders(dir)?.into_iter().map(read).collect())
}

/// The text model of that name in `dir`.
///
/// # Errors
///
/// Where there is none, it is not pulled yet, or it is not what its manifest says.
pub fn text_encoder(dir: &Path, name: &str) -> Result<TextEncoder, LoadError> {
    let mut known = Vec::new();
    for Described { folder, manifest } in manifests(dir)? {
        let Ok(manifest) = manifest else { continue };
        if matches!(manifest.kind, Kind::Text(_)) {
            if manifest.name != name {
                known.push(manifest.name);
            } else if let Engine::Text(encoder) = load(&folder, manifest)?.engine {
                return Ok(*encoder);
            }
        }
    }
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(MissingModel { kind: "text", name: name.to_owned(), known }.into())
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
    if let Some(missing) = manifest.pull.iter().find(|pull| !folder.join(&pull.file).exists()) {
        return Err(LoadError::NotPulled {
            model: manifest.name.clone(),
            file: folder.join(&missing.file),
            needed: manifest.kind.input().is_some(),
        });
    }
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
        Kind::Text(spec) => {
            Engine::Text(Box::new(TextEncoder::load(folder, &manifest, spec, &onnx)?))
        }
    };
    let bytes = onnx.len() as u64;
    drop(onnx);
    let inference = try_out(&engine, &manifest)?;
    Ok(Entry { info: ModelInfo { manifest, bytes, inference }, engine })
}
