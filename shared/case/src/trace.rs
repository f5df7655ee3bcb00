//! W3C Trace Context: the `traceparent` header, so that one image is one trace across services.

use std::{fmt, str::FromStr};

use crate::CaseId;

/// `version-traceid-spanid-flags` as in <https://www.w3.org/TR/trace-context/#traceparent-header>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace: [u8; 16],
    span: [u8; 8],
    flags: u8,
}

/// Why a text is not a trace parent.
#[derive(Debug, thiserror::Error)]
#[error("not a W3C traceparent: expected 00-<32 hex>-<16 hex>-<2 hex>, none of them all zero")]
pub struct TraceParentError;

impl TraceParent {
    /// The trace of an image that came without one. It derives from the image's id, so that every service that
    /// sees the same record starts the same trace.
    pub fn root(id: &CaseId) -> Self {
        let digest = *crate::Digest::of_parts(&[b"duet/trace", id.as_str().as_bytes()]).as_bytes();
        Self { trace: first(&digest), span: first(&digest[16..]), flags: 1 }
    }

    /// The same trace, one hop on: the new span's id derives from its parent's and the stage's name.
    #[must_use]
    pub fn child(&self, stage: &str) -> Self {
        let digest =
            *crate::Digest::of_parts(&[&self.trace, &self.span, stage.as_bytes()]).as_bytes();
        Self { trace: self.trace, span: first(&digest), flags: self.flags }
    }

    /// The trace id as 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        hex::encode(self.trace)
    }

    /// The span id as 16 hexadecimal digits.
    pub fn span_id(&self) -> String {
        hex::encode(self.span)
    }
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes.get(i).copied().unwrap_or_default())
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace_id(), self.span_id(), self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        fn field<const N: usize>(part: Option<&str>) -> Result<[u8; N], TraceParentError> {
            let mut bytes = [0; N];
            hex::decode_to_slice(part.unwrap_or_default(), &mut bytes)
                .map_err(|_| TraceParentError)?;
            Ok(bytes)
        }
        let mut parts = text.split('-');
        let [version] = field::<1>(parts.next())?;
        let trace = field::<16>(parts.next())?;
        let span = field::<8>(parts.next())?;
        let [flags] = field::<1>(parts.next())?;
        // Versions to come may add fields; version 00 has exactly four.
        let ends = version != 0 || parts.next().is_none();
        if version == 0xff || trace == [0; 16] || span == [0; 8] || !ends {
            return Err(TraceParentError);
        }
        Ok(Self { trace, span, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_keeps_the_trace() {
        let root = TraceParent::root(&CaseId::of_input(b"film"));
        assert_eq!(root.to_string().parse::<TraceParent>().unwrap(), root);
        let child = root.child("triage");
        assert_eq!(child.trace_id(), root.trace_id());
        assert_ne!(child.span_id(), root.span_id());
    }

    #[test]
    fn refuses_what_is_none() {
        for text in [
            "",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert!(text.parse::<TraceParent>().is_err(), "{text}");
        }
    }
}
