//! The embedded generalist: a dual encoder whose text side was computed beforehand.

use duet_case::{ModelRef, Probability};
use image::GrayImage;

use crate::{
    AnswerScore, Answered, DecisionRules, InferenceError, Look, Manifest, Question, TextSpec,
    VisionLanguage, VisionLanguageSpec,
    folder::Embeddings,
    network::Network,
    tract::{GraphError, Wanted},
};

/// An image tower, and one vector for each answer.
pub struct DualEncoder {
    network: Network,
    text: TextSpec,
    rules: DecisionRules,
    questions: Vec<Asked>,
}

struct Asked {
    question: Question,
    scale: f64,
    answers: Vec<Offered>,
}

struct Offered {
    id: String,
    meaning: String,
    in_scope: bool,
    bias: f64,
    embedding: Vec<f32>,
}

impl DualEncoder {
    pub(crate) fn load(
        manifest: &Manifest,
        spec: &VisionLanguageSpec,
        onnx: &[u8],
        mut embeddings: Embeddings,
    ) -> Result<Self, GraphError> {
        let shape = [Some(1), Some(spec.text.dim)];
        let outputs = [Wanted { name: &spec.embedding, shape: &shape }];
        let network = Network::load(manifest, spec.input, onnx, &outputs)?;
        let questions = spec
            .questions
            .iter()
            .map(|asked| Asked {
                question: asked.question,
                scale: asked.scale,
                answers: asked
                    .answers
                    .iter()
                    .map(|answer| Offered {
                        id: answer.id.clone(),
                        meaning: answer.meaning.clone(),
                        in_scope: answer.in_scope,
                        bias: answer.bias,
                        embedding: embeddings.take(asked.question, &answer.id),
                    })
                    .collect(),
            })
            .collect();
        Ok(Self { network, text: spec.text.clone(), rules: spec.decision.clone(), questions })
    }

    /// The space that it shares with a text model.
    pub fn text(&self) -> &TextSpec {
        &self.text
    }

    /// The picture's vector in that space.
    ///
    /// # Errors
    ///
    /// Where the picture is empty or the model gives no finite numbers.
    pub fn embed(&self, picture: &GrayImage) -> Result<Vec<f32>, InferenceError> {
        let [embedding] = self.network.run(picture)?;
        Ok(embedding)
    }

    fn answer(&self, asked: &Asked, image: &[f32]) -> Result<Answered, InferenceError> {
        let logits: Vec<f64> = asked
            .answers
            .iter()
            .map(|answer| asked.scale.mul_add(cosine(image, &answer.embedding), answer.bias))
            .collect();
        let probabilities = softmax(&logits);
        let scored = asked.answers.iter().zip(probabilities).map(|(answer, probability)| {
            let probability = Probability::new(probability)
                .map_err(|_| self.network.no_probability(asked.question.name()))?;
            let Offered { id, meaning, in_scope, .. } = answer;
            Ok(AnswerScore {
                id: id.clone(),
                meaning: meaning.clone(),
                in_scope: *in_scope,
                probability,
            })
        });
        Ok(Answered { question: asked.question, answers: scored.collect::<Result<_, _>>()? })
    }
}

impl VisionLanguage for DualEncoder {
    fn model(&self) -> &ModelRef {
        &self.network.model
    }

    fn rules(&self) -> &DecisionRules {
        &self.rules
    }

    fn look(&self, picture: &GrayImage) -> Result<Look, InferenceError> {
        let embedding = self.embed(picture)?;
        let answered = self.questions.iter().map(|asked| self.answer(asked, &embedding));
        Ok(Look { questions: answered.collect::<Result<_, _>>()? })
    }
}

/// The cosine of the angle between two vectors of the same length; 0 where one of them is zero. Both come
/// normalised already, to within rounding.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let norm = (dot(a, a) * dot(b, b)).sqrt();
    if norm > 0.0 { dot(a, b) / norm } else { 0.0 }
}

/// Sums to 1, whatever the size of the logits.
fn softmax(logits: &[f64]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_however_large_the_logits() {
        for logits in [vec![0.0, 0.0], vec![1e5, -1e5, 99_999.0], vec![-700.0, -701.0, -702.0]] {
            let probabilities = softmax(&logits);
            assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{logits:?}");
            assert!(probabilities[0] > 0.0, "{logits:?}");
        }
    }

    #[test]
    fn cosine_knows_direction_and_not_length() {
        assert!((cosine(&[2.0, 0.0], &[9.0, 0.0]) - 1.0).abs() < 1e-12);
        assert!(cosine(&[2.0, 0.0], &[0.0, 3.0]).abs() < 1e-12);
        assert!(cosine(&[0.0, 0.0], &[0.0, 3.0]).abs() < 1e-12);
    }
}
