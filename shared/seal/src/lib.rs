//! Sealed identifiers: what is needed to file a result back where its image came from, and may be read by nobody on the way.
//!
//! `prepare` seals them into the Case with a [`Sealer`] (AES-256-GCM, a random nonce for each, bound to the case and to what
//! they are for); `publish`, and whoever holds the key file, opens them with an [`Opener`]. No other crate names an
//! [`Opener`], by test. Keys are in a file of one line each: the first seals, all of them open, so that a new key can be put
//! before the old ones while sealed Cases are still under way. A key is known by an id that derives from it.
//!
//! Deliberately absent: what is sealed (any JSON), and keys in configuration, in variables or in a log.

mod file;
mod keys;
mod open;
mod seal;

pub use file::create_private;
pub use keys::{KeyFile, KeyFileError};
pub use open::{OpenError, Opener};
pub use seal::{Purpose, SealError, Sealer};
