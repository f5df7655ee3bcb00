//! Damaged files out of whole ones, the same for the same seed.
//!
//! Deliberately absent: any knowledge of what a reader does with them; see `tests/` for that.

/// What was done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// Some bits turned, anywhere.
    BitFlips,
    /// Some bits turned among the first bytes, where headers are.
    HeaderFlips,
    /// Cut off.
    Truncated,
    /// The beginning of one file and the end of another.
    Spliced,
    /// Two or four bytes that may be a length, set to something extreme.
    Length,
    /// A block doubled.
    Repeated,
}

impl Mutation {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::BitFlips,
        Self::HeaderFlips,
        Self::Truncated,
        Self::Spliced,
        Self::Length,
        Self::Repeated,
    ];
}

/// Where headers are, in every format that is read.
const HEADER: usize = 1024;

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and the same for ever.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`; 0 where that is 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % (end as u64).max(1)) as usize
    }
}

/// A damaged copy of one of `files`, and what was done to it. `number` chooses the file, the mutation and its places.
pub fn mutant(files: &[Vec<u8>], seed: u64, number: u64) -> (Vec<u8>, Mutation) {
    let mut dice = Dice(seed ^ number.wrapping_mul(0xD134_2543_DE82_EF95));
    let pick = |dice: &mut Dice| files.get(dice.below(files.len())).map_or(&[][..], Vec::as_slice);
    let mut bytes = pick(&mut dice).to_vec();
    let mutation = Mutation::ALL[dice.below(Mutation::ALL.len())];
    match mutation {
        Mutation::BitFlips => flip(&mut bytes, usize::MAX, &mut dice),
        Mutation::HeaderFlips => flip(&mut bytes, HEADER, &mut dice),
        Mutation::Truncated => bytes.truncate(dice.below(bytes.len())),
        Mutation::Spliced => {
            let other = pick(&mut dice);
            bytes.truncate(dice.below(bytes.len()));
            bytes.extend_from_slice(other.get(dice.below(other.len())..).unwrap_or_default());
        }
        Mutation::Length => {
            for _ in 0..=dice.below(3) {
                set_length(&mut bytes, &mut dice);
            }
        }
        Mutation::Repeated => {
            let from = dice.below(bytes.len());
            let block = bytes.get(from..).unwrap_or_default();
            let block = block.get(..block.len().min(1 + dice.below(4096))).unwrap_or_default();
            let again: Vec<u8> = block.repeat(1 + dice.below(8));
            let at = from + block.len();
            bytes.splice(at..at, again);
        }
    }
    (bytes, mutation)
}

fn flip(bytes: &mut [u8], reach: usize, dice: &mut Dice) {
    for _ in 0..=dice.below(16) {
        let at = dice.below(bytes.len().min(reach));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << dice.below(8);
        }
    }
}

fn set_length(bytes: &mut [u8], dice: &mut Dice) {
    const EXTREMES: [u32; 8] =
        [0, 1, 0x7F, 0xFFFF, 0x1_0000, 0x7FFF_FFFF, 0xC000_0000, 0xFFFF_FFFF];
    let value = EXTREMES[dice.below(EXTREMES.len())];
    let (wide, big) = (dice.below(2) == 0, dice.below(2) == 0);
    // Every second one in a header.
    let reach = if dice.below(2) == 0 { bytes.len().min(HEADER) } else { bytes.len() };
    let at = dice.below(reach);
    let four = if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let piece = match (wide, big) {
        (true, _) => &four[..],
        (false, true) => &four[2..],
        (false, false) => &four[..2],
    };
    if let Some(place) = bytes.get_mut(at..at + piece.len()) {
        place.copy_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn mutants_are_the_same_again_and_differ_among_each_other() {
        let files = [vec![7; 5000], (0..=255).collect()];
        let make = |seed| (0..400).map(|number| mutant(&files, seed, number)).collect::<Vec<_>>();
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        let kinds: BTreeSet<_> = make(1).into_iter().map(|(_, mutation)| mutation).collect();
        assert_eq!(kinds.len(), Mutation::ALL.len());
        let differing = make(1).into_iter().filter(|(bytes, _)| !files.contains(bytes)).count();
        assert!(differing > 350, "{differing}");
        // From nothing comes nothing.
        assert!(mutant(&[], 1, 2).0.is_empty());
        assert!(mutant(&[Vec::new()], 1, 2).0.is_empty());
    }
}
