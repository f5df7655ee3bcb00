//! Each model is run before anything depends on it.

use std::time::{Duration, Instant};

use image::GrayImage;

use crate::{
    Classifier as _, LoadError, Manifest, Segmentation as _, VisionLanguage as _,
    classifier::maps_explain_logits, registry::Engine,
};

/// Runs the model, and says how long it took the second time.
pub(crate) fn try_out(engine: &Engine, manifest: &Manifest) -> Result<Duration, LoadError> {
    let model = || manifest.name.clone();
    let failed = |source| LoadError::Trial { model: model(), source };
    let (width, height) = manifest.kind.input().map_or((1, 1), |input| (input.width, input.height));
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
        Engine::Text(own) => {
            let failed = |source| LoadError::TextTrial { model: model(), source };
            own.embed("a chest X-ray").map_err(failed)?;
            let start = Instant::now();
            own.embed("a normal chest X-ray").map_err(failed)?;
            start
        }
    };
    Ok(start.elapsed())
}
