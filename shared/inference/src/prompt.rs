//! New prompts against pictures, without training: what the space of a dual encoder is for.

use crate::{TextEncoder, TextError, generalist::cosine};

/// How well a picture goes with one prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PromptScore {
    /// Cosine of the angle between the picture's vector and the prompt's: -1 to 1.
    pub cosine: f64,
    /// The same less the neutral prompt's: -2 to 2, above 0 where the picture goes better with the prompt than with the
    /// neutral one. It orders pictures; it is no probability.
    pub score: f64,
}

/// Prompts and the neutral one that they are measured against.
///
/// All prompts on one subject share a direction, and how far a picture goes along it says nothing of any of them; the
/// neutral prompt takes it off.
#[derive(Debug, Clone)]
pub struct Prompts {
    prompts: Vec<Vec<f32>>,
    against: Vec<f32>,
}

impl Prompts {
    /// Embeds them.
    ///
    /// # Errors
    ///
    /// Where one of them cannot be embedded: by its words.
    pub fn embed(
        encoder: &TextEncoder,
        prompts: &[String],
        against: &str,
    ) -> Result<Self, TextError> {
        let vectors = prompts.iter().map(|prompt| encoder.embed(prompt));
        Ok(Self { prompts: vectors.collect::<Result<_, _>>()?, against: encoder.embed(against)? })
    }

    /// The scores of a picture whose vector is `picture`, in the prompts' order.
    pub fn score(&self, picture: &[f32]) -> Vec<PromptScore> {
        let against = cosine(picture, &self.against);
        self.prompts
            .iter()
            .map(|prompt| {
                let cosine = cosine(picture, prompt);
                PromptScore { cosine, score: cosine - against }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_what_the_prompt_has_more_than_the_neutral_one() {
        let prompts =
            Prompts { prompts: vec![vec![1.0, 0.0], vec![0.0, 1.0]], against: vec![0.6, 0.8] };
        let scores = prompts.score(&[2.0, 0.0]);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(close(scores[0].cosine, 1.0) && close(scores[0].score, 0.4), "{scores:?}");
        assert!(close(scores[1].cosine, 0.0) && close(scores[1].score, -0.6), "{scores:?}");
    }
}
