//! Graphs over the word pieces of a text.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tract_onnx::prelude::{
    Datum, Framework, InferenceFact, InferenceModelExt, Tensor, TypedRunnableModel,
};

use super::{GraphError, GraphRunError, check, optimised};

/// What goes in, each `[1, tokens]` of whole numbers: the pieces, 1 where there is one, and the number of the text, 0.
const PIECES: &str = "input_ids";
const MASK: &str = "attention_mask";
const SEGMENT: &str = "token_type_ids";

/// A graph for texts of up to so many pieces, optimised once and shared by all threads.
pub(crate) struct TokenGraph {
    plan: Arc<TypedRunnableModel>,
    /// In the graph's order.
    inputs: Vec<String>,
    output: String,
    tokens: usize,
    dim: usize,
}

impl TokenGraph {
    /// Reads the ONNX file whose bytes are `onnx`, gives it `tokens` pieces, checks that `output` is then
    /// `[1, tokens, dim]`, and optimises it.
    pub(crate) fn load(
        onnx: &[u8],
        tokens: usize,
        output: &str,
        dim: usize,
    ) -> Result<Self, GraphError> {
        catch_unwind(AssertUnwindSafe(|| Self::build(onnx, tokens, output, dim)))
            .unwrap_or(Err(GraphError::Crashes))
    }

    fn build(mut onnx: &[u8], tokens: usize, output: &str, dim: usize) -> Result<Self, GraphError> {
        let unusable = |error: tract_onnx::prelude::TractError| GraphError::Unusable(error.into());
        // Exporters write down sizes as letters, which then contradict the one that is set here.
        let reader =
            tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true);
        let mut model = reader.model_for_read(&mut onnx).map_err(unusable)?;

        let name = |outlet: &tract_onnx::prelude::OutletId| {
            model
                .outlet_label(*outlet)
                .map_or_else(|| model.node(outlet.node).name.clone(), str::to_owned)
        };
        let inputs: Vec<String> = model.inputs.iter().map(name).collect();
        let known = |input: &String| [PIECES, MASK, SEGMENT].contains(&input.as_str());
        let has = |input: &str| inputs.iter().any(|own| own == input);
        if !has(PIECES) || !has(MASK) || !inputs.iter().all(known) {
            return Err(GraphError::TextInputs { found: inputs });
        }
        let found: Vec<String> = model.outputs.iter().map(name).collect();
        if !found.iter().any(|own| own == output) {
            return Err(GraphError::NoOutput { wanted: output.to_owned(), found });
        }
        model.select_outputs_by_name([output]).map_err(unusable)?;
        for i in 0..inputs.len() {
            let fact = InferenceFact::dt_shape(i64::datum_type(), [1, tokens]);
            model.set_input_fact(i, fact).map_err(unusable)?;
        }
        let model = model.into_typed().map_err(unusable)?;
        let shape = [Some(1), Some(tokens), Some(dim)];
        check(output, &shape, model.output_fact(0).map_err(unusable)?)?;
        let plan = optimised(model).map_err(unusable)?;
        Ok(Self { plan, inputs, output: output.to_owned(), tokens, dim })
    }

    /// How many pieces go in.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Numbers in a vector.
    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// The mean of what comes out for each of `pieces`, of which there are 1 to [`TokenGraph::tokens`]; every number is
    /// finite.
    pub(crate) fn mean(&self, pieces: &[i64]) -> Result<Vec<f32>, GraphRunError> {
        let failed = |error: tract_onnx::prelude::TractError| GraphRunError::Failed(error.into());
        let count = pieces.len().clamp(1, self.tokens);
        let inputs = self.inputs.iter().map(|name| {
            let filled: Vec<i64> = (0..self.tokens)
                .map(|at| match name.as_str() {
                    PIECES => pieces.get(at).copied().unwrap_or(0),
                    MASK => i64::from(at < count),
                    _ => 0,
                })
                .collect();
            Ok(Tensor::from_shape(&[1, self.tokens], &filled).map_err(failed)?.into())
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let results = self.plan.run(inputs.into()).map_err(failed)?;
        let mut mean = vec![0.0_f32; self.dim];
        if let Some(value) = results.first() {
            let view = value.try_as_plain_ram().map_err(failed)?;
            let values = view.as_slice::<f32>().map_err(failed)?;
            for vector in values.chunks_exact(self.dim).take(count) {
                for (sum, value) in mean.iter_mut().zip(vector) {
                    *sum += value / count as f32;
                }
            }
        }
        if mean.iter().all(|value| value.is_finite()) {
            return Ok(mean);
        }
        Err(GraphRunError::NotFinite { output: self.output.clone() })
    }
}
