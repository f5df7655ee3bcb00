//! Decoding, rendering, preprocessing and annotating images; pure, synchronous, capped
