//! ONNX graphs on tract. The one place that names it.

mod tokens;

use std::{
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tract_onnx::prelude::{
    Datum, Framework, InferenceModelExt, IntoRunnable, Tensor, TypedModel, TypedRunnableModel, tvec,
};

pub(crate) use tokens::TokenGraph;

/// An error of tract's own.
type Inner = Box<dyn Error + Send + Sync>;

/// Why a graph cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// Not ONNX, or with operators or shapes that tract does not know.
    #[error(
        "is not an ONNX graph that Duet can run (opset 17, fixed shapes, plain operators): {0}"
    )]
    Unusable(#[source] Inner),
    /// tract panicked.
    #[error("crashes the ONNX loader: export the model anew, opset 17 with fixed shapes")]
    Crashes,
    /// Not exactly the one input.
    #[error("has the inputs {found:?}, but must have {wanted:?} alone: rename it when exporting")]
    Inputs {
        /// The input that is needed.
        wanted: &'static str,
        /// What the graph has.
        found: Vec<String>,
    },
    /// Not the inputs of an encoder of texts.
    #[error(
        "has the inputs {found:?}, but a text model must have input_ids and attention_mask, and may have token_type_ids: rename them when exporting"
    )]
    TextInputs {
        /// What the graph has.
        found: Vec<String>,
    },
    /// An output that the manifest names is not there.
    #[error("has no output {wanted:?}, which model.toml names under [outputs]; it has {found:?}")]
    NoOutput {
        /// The output that is named.
        wanted: String,
        /// What the graph has.
        found: Vec<String>,
    },
    /// A tensor of another shape or type.
    #[error(
        "has {tensor:?} as {found}, but model.toml says f32 {wanted}: correct it, or export with these fixed shapes"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// As the manifest has it; `?` is any size.
        wanted: String,
        /// As the graph has it.
        found: String,
    },
}

/// Why a graph gave no result.
#[derive(Debug, thiserror::Error)]
pub enum GraphRunError {
    /// tract failed.
    #[error("the graph failed: {0}")]
    Failed(#[source] Inner),
    /// A result that is not a number.
    #[error("output {output:?} holds a value that is not a finite number")]
    NotFinite {
        /// The output.
        output: String,
    },
}

/// The name of every graph's one input.
pub(crate) const INPUT: &str = "image";

/// Cells along a side of an output, at most: shapes come from a file.
const MAX_SIDE: usize = 4096;

/// An output as the manifest has it: its name and shape, `None` for any size.
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: &'a [Option<usize>],
}

/// A graph, optimised once and shared by all threads.
pub(crate) struct Graph {
    plan: Arc<TypedRunnableModel>,
    input: [usize; 4],
    outputs: Vec<(String, Vec<usize>)>,
}

impl Graph {
    /// Reads the ONNX file whose bytes are `onnx`, checks its input and outputs, and optimises it.
    pub(crate) fn load(
        onnx: &[u8],
        input: [usize; 4],
        outputs: &[Wanted<'_>],
    ) -> Result<Self, GraphError> {
        // tract may panic on a graph that is inconsistent in itself; that is a refusal too.
        catch_unwind(AssertUnwindSafe(|| Self::build(onnx, input, outputs)))
            .unwrap_or(Err(GraphError::Crashes))
    }

    fn build(
        mut onnx: &[u8],
        input: [usize; 4],
        outputs: &[Wanted<'_>],
    ) -> Result<Self, GraphError> {
        let unusable = |error: tract_onnx::prelude::TractError| GraphError::Unusable(error.into());
        let mut model = tract_onnx::onnx().model_for_read(&mut onnx).map_err(unusable)?;

        let name = |outlet: &tract_onnx::prelude::OutletId| {
            model
                .outlet_label(*outlet)
                .map_or_else(|| model.node(outlet.node).name.clone(), str::to_owned)
        };
        let inputs: Vec<String> = model.inputs.iter().map(name).collect();
        if inputs != [INPUT] {
            return Err(GraphError::Inputs { wanted: INPUT, found: inputs });
        }
        let found: Vec<String> = model.outputs.iter().map(name).collect();
        if let Some(missing) = outputs.iter().find(|own| !found.iter().any(|name| name == own.name))
        {
            return Err(GraphError::NoOutput { wanted: missing.name.to_owned(), found });
        }
        model.select_outputs_by_name(outputs.iter().map(|own| own.name)).map_err(unusable)?;

        let model = model.into_typed().map_err(unusable)?;
        let wanted: Vec<_> = input.into_iter().map(Some).collect();
        check(INPUT, &wanted, model.input_fact(0).map_err(unusable)?)?;
        let mut shapes = Vec::with_capacity(outputs.len());
        for (i, own) in outputs.iter().enumerate() {
            let fact = model.output_fact(i).map_err(unusable)?;
            shapes.push((own.name.to_owned(), check(own.name, own.shape, fact)?));
        }
        let plan = optimised(model).map_err(unusable)?;
        Ok(Self { plan, input, outputs: shapes })
    }

    /// The shape of the output at `index` in the order that [`Graph::load`] was given.
    pub(crate) fn shape(&self, index: usize) -> &[usize] {
        self.outputs.get(index).map_or(&[], |(_, shape)| shape)
    }

    /// Runs the graph on one image in this thread. One vector for each output, in the order that [`Graph::load`]
    /// was given; every value is finite and each vector is as long as its shape says.
    pub(crate) fn run(&self, image: &[f32]) -> Result<Vec<Vec<f32>>, GraphRunError> {
        let failed = |error: tract_onnx::prelude::TractError| GraphRunError::Failed(error.into());
        let tensor = Tensor::from_shape(&self.input, image).map_err(failed)?;
        let results = self.plan.run(tvec![tensor.into()]).map_err(failed)?;
        self.outputs
            .iter()
            .zip(results.iter())
            .map(|((name, _), value)| {
                let view = value.try_as_plain_ram().map_err(failed)?;
                let values = view.as_slice::<f32>().map_err(failed)?;
                if values.iter().all(|value| value.is_finite()) {
                    return Ok(values.to_vec());
                }
                Err(GraphRunError::NotFinite { output: name.clone() })
            })
            .collect()
    }
}

fn optimised(
    model: TypedModel,
) -> Result<Arc<TypedRunnableModel>, tract_onnx::prelude::TractError> {
    model.into_optimized()?.into_runnable()
}

/// The tensor's shape, where it is the wanted one.
fn check(
    tensor: &str,
    wanted: &[Option<usize>],
    fact: &tract_onnx::prelude::TypedFact,
) -> Result<Vec<usize>, GraphError> {
    let fits = |shape: &&[usize]| {
        shape.len() == wanted.len()
            && shape.iter().zip(wanted).all(|(size, want)| match want {
                Some(want) => size == want,
                None => (1..=MAX_SIDE).contains(size),
            })
    };
    match fact.shape.as_concrete().filter(fits) {
        Some(shape) if fact.datum_type == f32::datum_type() => Ok(shape.to_vec()),
        _ => {
            let sizes = wanted.iter().map(|own| own.map_or("?".into(), |own| own.to_string()));
            let wanted = format!("[{}]", sizes.collect::<Vec<_>>().join(","));
            Err(GraphError::Shape {
                tensor: tensor.to_owned(),
                wanted,
                found: format!("{:?} [{:?}]", fact.datum_type, fact.shape),
            })
        }
    }
}
