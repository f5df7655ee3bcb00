//! Whether a report can be filed back: what `prepare` sealed for it opens, and was sealed for this very case.
//!
//! A report whose seal is broken would be filed under somebody else, so it does not go out. A key that is missing is the
//! deployment's fault and no record's: the report goes out with its identifiers still sealed, and readiness says what to do.

use std::path::Path;

use duet_case::Case;
use duet_imaging::Identifiers;
use duet_seal::{KeyFileError, OpenError, Opener, Purpose};
use duet_stage::Reason;
use duet_telemetry::{HealthItem, metrics};
use tracing::{info, warn};

/// Opens what was sealed.
pub(crate) struct Filing {
    opener: Opener,
    health: HealthItem,
}

impl Filing {
    /// With the keys in the file, which has to be there where `is_required`.
    pub(crate) fn open(
        path: &Path,
        is_required: bool,
        health: HealthItem,
    ) -> Result<Self, KeyFileError> {
        // From nought, so that the first is an increase, which an alert waits for.
        for outcome in ["opened", "unknown_key", "broken"] {
            metrics().sealed.with_label_values(&[outcome]).inc_by(0);
        }
        let opener = if is_required { Opener::load(path)? } else { Opener::waiting(path) };
        health.ready();
        Ok(Self { opener, health })
    }

    /// Opens what is sealed in the case and lets go of it again: nothing is filed yet.
    ///
    /// # Errors
    ///
    /// Where the seal is broken.
    pub(crate) fn check(&self, case: &Case) -> Result<(), Reason> {
        let Some(sealed) = &case.source.sealed else { return Ok(()) };
        let opened = self.opener.open::<Identifiers>(&case.id, Purpose::Filing, sealed);
        let outcome = opened.as_ref().map_or_else(OpenError::name, |_| "opened");
        metrics().sealed.with_label_values(&[outcome]).inc();
        match opened {
            Ok(_) => {
                if self.health.set_ready() {
                    info!("sealed identifiers open again");
                }
                Ok(())
            }
            Err(error @ OpenError::UnknownKey { .. }) => {
                let words = error.to_string();
                // Once, and in readiness for as long as it lasts.
                if self.health.set_not_ready(&words) {
                    warn!(case = %case.id, "reports go out that cannot be filed back: {words}");
                }
                Ok(())
            }
            // Not configured here, and none made here.
            Err(OpenError::NoKeys { .. }) => Ok(()),
            Err(error @ (OpenError::Broken { .. } | OpenError::Unreadable { .. })) => {
                Err(Reason::of("seal_broken", &error))
            }
        }
    }
}
