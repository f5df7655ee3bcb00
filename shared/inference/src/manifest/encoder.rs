//! A text encoder: what a `text` model's manifest adds.

use duet_case::Digest;

use super::{ManifestError, check::Check, raw::RawManifest};

/// Tokens of a text, at most: longer ones are books.
const MAX_TOKENS: std::ops::RangeInclusive<usize> = 8..=512;

/// What a `text` model's manifest adds. A text becomes word pieces (BERT's), these go through the graph, and the mean of
/// what comes out for them, made a vector of length 1, is the text's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextEncoderSpec {
    /// Name of the output `[1, tokens, dim]`.
    pub output: String,
    /// Numbers in a vector.
    pub dim: usize,
    /// Word pieces of a text at most, with the two that mark its ends; as many as training saw.
    pub max_tokens: usize,
    /// Whether upper and lower case are one, and accents fall away.
    pub lower_case: bool,
    /// The file of word pieces, one a line; its number is the piece's.
    pub vocabulary: String,
    /// That file's digest.
    pub sha256: Digest,
}

pub(super) fn text(check: &Check<'_>, raw: &RawManifest) -> Result<TextEncoderSpec, ManifestError> {
    const KIND: &str = "text";
    for (key, absent) in [
        ("input", raw.input.is_none()),
        ("accepts", raw.accepts.is_none()),
        ("calibration", raw.calibration.is_none()),
        ("labels", raw.labels.is_empty()),
        ("text", raw.text.is_none()),
        ("decision", raw.decision.is_none()),
        ("questions", raw.questions.is_empty()),
        ("outputs.logits", raw.outputs.logits.is_none()),
        ("outputs.cam", raw.outputs.cam.is_none()),
        ("outputs.embedding", raw.outputs.embedding.is_none()),
        ("outputs.masks", raw.outputs.masks.is_none()),
    ] {
        check.absent(KIND, key, absent)?;
    }
    let own = check.needed(KIND, "encoder", raw.encoder.as_ref())?;
    if !(1..=8192).contains(&own.dim) {
        let problem = format!("is {}: a vector has 1 to 8192 numbers", own.dim);
        return Err(check.refuse("encoder.dim", problem));
    }
    if !MAX_TOKENS.contains(&own.max_tokens) {
        let (low, high) = (MAX_TOKENS.start(), MAX_TOKENS.end());
        let problem = format!("is {}: it must be from {low} to {high}", own.max_tokens);
        return Err(check.refuse("encoder.max_tokens", problem));
    }
    Ok(TextEncoderSpec {
        output: check.output(KIND, "outputs.tokens", raw.outputs.tokens.as_ref())?,
        dim: own.dim,
        max_tokens: own.max_tokens,
        lower_case: own.lower_case,
        vocabulary: check.file_name("encoder.vocabulary", &own.vocabulary)?,
        sha256: check.digest("encoder.sha256", &own.sha256)?,
    })
}
