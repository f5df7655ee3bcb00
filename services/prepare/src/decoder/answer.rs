//! From what `duet-imaging` says to what goes over the pipe and back, with everything checked on the way back.

use std::{error::Error, io};

use duet_imaging::{Class, LONG_SIDE, PrepareError, Prepared};
use duet_stage::{Reason, Setback};

use super::wire::Told;

/// Longer than any message of a decoder. The rest of it is cut off.
const MAX_MESSAGE: usize = 2000;

/// The answer to a file that was read or refused, and the picture.
pub(super) fn tell(prepared: Result<Prepared, PrepareError>) -> (Told, Vec<u8>) {
    match prepared {
        Ok(Prepared::Picture {
            source,
            identifiers,
            rendition_png,
            width,
            height,
            scale,
            window,
            inverted,
        }) => {
            let told =
                Told::Picture { source, identifiers, width, height, scale, window, inverted };
            (told, rendition_png)
        }
        Ok(Prepared::NoPixels { source, identifiers, reason }) => {
            (Told::NoPixels { source, identifiers, reason }, Vec::new())
        }
        Err(error) if lacks_memory(&error) => (Told::OutOfMemory, Vec::new()),
        Err(error) => {
            let Reason { class, message } = Reason::of(error.class(), &error);
            (Told::Refused { class: class.to_owned(), message }, Vec::new())
        }
    }
}

/// Whether memory was refused to a decoder that reports it. C libraries only say that they cannot decode.
fn lacks_memory(error: &(dyn Error + 'static)) -> bool {
    let mut cause = error.source();
    while let Some(own) = cause {
        let kind = own.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind == Some(io::ErrorKind::OutOfMemory) {
            return true;
        }
        cause = own.source();
    }
    false
}

/// What a child's answer says; `None` where it cannot be.
pub(super) fn hear(told: Told, png: Vec<u8>) -> Option<Result<Prepared, Setback>> {
    match told {
        Told::Picture { source, identifiers, width, height, scale, window, inverted } => {
            let fits = |side| (1..=LONG_SIDE).contains(&side);
            let is_one = fits(width)
                && fits(height)
                && scale.iter().all(|axis| axis.is_finite())
                && png_size(&png) == Some((width, height));
            is_one.then_some(Ok(Prepared::Picture {
                source,
                identifiers,
                rendition_png: png,
                width,
                height,
                scale,
                window,
                inverted,
            }))
        }
        Told::NoPixels { source, identifiers, reason } if png.is_empty() => {
            Some(Ok(Prepared::NoPixels { source, identifiers, reason }))
        }
        Told::Refused { class, mut message } if png.is_empty() => {
            let class = Class::ALL.into_iter().find(|own| own.name() == class)?;
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
            Some(Err(Setback::Reject(Reason::new(class.name(), message))))
        }
        // The pool knows what the limit is.
        Told::NoPixels { .. } | Told::Refused { .. } | Told::OutOfMemory => None,
    }
}

/// Width and height of an eight-bit grey PNG, as its header has them. Whoever fetches the rendition decodes all of it.
fn png_size(png: &[u8]) -> Option<(u32, u32)> {
    const EIGHT_BIT_GREY: [u8; 2] = [8, 0];
    let header = png.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")?;
    let (width, rest) = header.split_first_chunk::<4>()?;
    let (height, rest) = rest.split_first_chunk::<4>()?;
    let size = (u32::from_be_bytes(*width), u32::from_be_bytes(*height));
    rest.starts_with(&EIGHT_BIT_GREY).then_some(size)
}

#[cfg(test)]
mod tests {
    use duet_imaging::{Limits, prepare};
    use duet_testkit::phantoms::{self, DicomOptions};

    use super::*;

    fn film() -> Vec<u8> {
        phantoms::dicom(&phantoms::chest(1, 300, 280), &DicomOptions::marked())
    }

    #[test]
    fn what_was_told_is_heard() {
        let limits = Limits::default();
        let (told, png) = tell(prepare(&film(), &limits));
        let text = serde_json::to_string(&told).unwrap();
        let heard = hear(serde_json::from_str(&text).unwrap(), png.clone());
        let Some(Ok(Prepared::Picture { identifiers, rendition_png, width, height, .. })) = heard
        else {
            panic!("{heard:?}")
        };
        assert_eq!((rendition_png, width, height), (png, 300, 280));
        assert!(identifiers.study_instance_uid.is_some_and(|uid| uid.ends_with("7770011")));
        assert_eq!(identifiers.patient_id.as_deref(), Some("ZZMARKID"));

        let (told, png) = tell(prepare(&phantoms::structured_report(), &limits));
        assert!(matches!(hear(told, png), Some(Ok(Prepared::NoPixels { .. }))));
        let (told, png) = tell(prepare(b"", &limits));
        let Some(Err(Setback::Reject(reason))) = hear(told, png) else { panic!("no reason") };
        assert_eq!(reason.class, "empty");
    }

    #[test]
    fn what_cannot_be_is_not_believed() {
        let picture = || tell(prepare(&film(), &Limits::default()));
        let (told, png) = picture();
        assert!(hear(told, png[..20].to_vec()).is_none(), "a picture that breaks off");
        let (mut told, png) = picture();
        if let Told::Picture { width, .. } = &mut told {
            *width += 1;
        }
        assert!(hear(told, png).is_none(), "another size than the picture's");
        let class = "sunny".to_owned();
        let told = Told::Refused { class, message: String::new() };
        assert!(hear(told, Vec::new()).is_none(), "an unknown class");
        let message = "ä".repeat(MAX_MESSAGE);
        let told = Told::Refused { class: "corrupt".to_owned(), message };
        let Some(Err(Setback::Reject(reason))) = hear(told, Vec::new()) else {
            panic!("no reason")
        };
        assert_eq!(reason.message.len(), MAX_MESSAGE);
    }
}
