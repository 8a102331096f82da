//! In what two checkpoints differ: files, then tensors, then rows and columns, then neurons.

mod sentence;

use crate::architecture::place::Axis;
use crate::architecture::{OtherParts, Recipe, stacks};
use crate::checkpoint::{ConfigFile, Opened};
use crate::error::Result;
use crate::neuron::{ModulePath, Neuron};
use safetensors::Dtype;
use serde::Serialize;
use std::collections::BTreeSet;

/// Rows or columns of a tensor that are listed one by one; where more changed they are counted.
pub const LISTED: usize = 64;

/// One difference. `before` is the fingerprint's side, or A's of a diff.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Difference {
    /// A file is not there any more.
    FileMissing {
        /// Its path below the folder.
        path: String,
    },
    /// A file was not there.
    FileExtra {
        /// Its path below the folder.
        path: String,
    },
    /// A file has other content.
    FileChanged {
        /// Its path below the folder.
        path: String,
        /// Its size before.
        bytes_before: u64,
        /// Its size now.
        bytes_after: u64,
        /// It is a safetensors file with the same tensors: the header or the order changed.
        same_tensors: bool,
    },
    /// A link leads elsewhere than it did, or stands where a file was.
    FileLinked {
        /// Its path below the folder.
        path: String,
        /// Where it led; none where it was no link.
        before: Option<String>,
        /// Where it leads.
        after: String,
    },
    /// A file of the Hugging Face cache has other bytes than it is named by.
    FileDamaged {
        /// Its path below the folder.
        path: String,
        /// How that shows.
        problem: String,
    },
    /// A file, or the tensors in it, cannot be told.
    NotExamined {
        /// Its path below the folder.
        path: String,
        /// Why.
        problem: String,
    },
    /// What a GGUF's metadata say of a key is another.
    MetadataChanged {
        /// The key.
        key: String,
        /// What they said, in words; none where there was no such key.
        before: Option<String>,
        /// What they say.
        after: Option<String>,
    },
    /// A tensor is not there any more.
    TensorMissing {
        /// The name in the file.
        name: String,
    },
    /// A tensor was not there.
    TensorExtra {
        /// The name in the file.
        name: String,
        /// The file it lies in.
        file: String,
    },
    /// The same bytes under another name.
    TensorRenamed {
        /// Its name before.
        before: String,
        /// Its name now.
        after: String,
    },
    /// A tensor has another type or shape.
    TensorReshaped {
        /// The name in the file.
        name: String,
        /// Type and shape before.
        before: (Dtype, Vec<usize>),
        /// Type and shape now.
        after: (Dtype, Vec<usize>),
    },
    /// The same tensor lies in another file.
    TensorMoved {
        /// The name in the file.
        name: String,
        /// The file before.
        before: String,
        /// The file now.
        after: String,
    },
    /// A tensor holds what another one held.
    TensorReplaced {
        /// The name in the file.
        name: String,
        /// The tensor that held this.
        other: String,
        /// That one holds what this one held.
        swapped: bool,
    },
    /// A tensor or a packed weight has other values.
    TensorChanged(TensorChange),
    /// A weight is stored in another form: as another type, or packed otherwise. Its values are compared all the same.
    WeightRepacked(Repacked),
}

/// How a tensor's values changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorChange {
    /// The name in the file; of a packed weight the name that it would have there if it were not.
    pub name: String,
    /// The tensor's shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// How its elements are stored; of a packed weight F32, what it is decoded to.
    pub dtype: Dtype,
    /// Where it is a packed weight, what it is made of. All else is told of its decoded values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed: Option<Packed>,
    /// Rows with a changed element (elements, of a vector), of all rows.
    pub rows_changed: usize,
    /// Rows that the tensor has (elements, of a vector).
    pub rows: usize,
    /// Columns with a changed element.
    pub columns_changed: usize,
    /// Columns; 0 of a vector.
    pub columns: usize,
    /// ‖after − before‖ / ‖before‖; only where both were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_norm: Option<f64>,
    /// Changed elements; only where both were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elements_changed: Option<u64>,
    /// How many more values are not a number than before.
    #[serde(skip_serializing_if = "is_zero")]
    pub became_nan: u64,
    /// What the change looks like as a whole.
    pub pattern: Pattern,
    /// The rows and columns that tell it: all that changed where they are few, else those that stand out.
    pub lines: Vec<LineChange>,
}

/// How a weight that changed is packed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Packed {
    /// What its codes are, such as `FP8`.
    pub format: String,
    /// The stored tensors of its codes and scales that changed; none where only what the config says of them did.
    pub stored: Vec<String>,
}

/// A weight in two forms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Repacked {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What it was stored as: a type, or what its codes were, such as `FP8`.
    pub before: String,
    /// What it is stored as.
    pub after: String,
    /// ‖after − before‖ / ‖before‖; none where that is no number.
    pub relative_error: Option<f64>,
    /// Rows.
    pub rows: usize,
    /// Rows whose relative error is far above that of the others.
    pub rows_standing_out: usize,
    /// Columns; 0 of a vector.
    pub columns: usize,
    /// Columns whose relative error is far above that of the others.
    pub columns_standing_out: usize,
    /// Those that stand out: the first of the rows, then of the columns.
    pub lines: Vec<LineChange>,
}

/// What a change looks like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "form", rename_all = "kebab-case")]
pub enum Pattern {
    /// A few elements.
    Elements,
    /// A few whole rows or columns: what a lesion is.
    Lines,
    /// A matrix of low rank was added, as by a merged LoRA.
    LowRank {
        /// Singular values above the rounding of the element type.
        rank: usize,
    },
    /// Most of the tensor.
    Dense,
}

/// How a row or column changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LineChange {
    /// Row, column, or element of a vector.
    pub axis: Axis,
    /// Which one; of a stack of matrices, counted through all of them.
    pub index: usize,
    /// The neuron it is, where the tensor is a module's weight or bias.
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub neuron: Option<Neuron>,
    /// Euclidean norm of all its values before.
    pub norm_before: f64,
    /// Euclidean norm of all its values now.
    pub norm_after: f64,
    /// It is β times what it was, up to rounding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// ‖after − before‖ / ‖before‖; only of a weight in two forms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn as_text<S: serde::Serializer>(neuron: &Option<Neuron>, to: S) -> std::result::Result<S::Ok, S::Error> {
    neuron.as_ref().map(ToString::to_string).serialize(to)
}

/// A tensor that holds what another one held. Of two that were swapped the first, by name, tells it.
pub fn replaced_by(name: &str, other: &str, swapped: bool) -> Option<Difference> {
    let told = !swapped || name < other;
    told.then(|| Difference::TensorReplaced { name: name.to_owned(), other: other.to_owned(), swapped })
}

/// Names the neurons of experts that lie in stacks; `shape_of` tells the shape of a weight.
pub fn name_experts(differences: &mut [Difference], shape_of: &dyn Fn(&str) -> Option<Vec<usize>>) {
    for difference in differences {
        let (name, lines) = match difference {
            Difference::TensorChanged(change) => (&change.name, &mut change.lines),
            Difference::WeightRepacked(weight) => (&weight.name, &mut weight.lines),
            _ => continue,
        };
        for line in lines.iter_mut().filter(|line| line.neuron.is_none()) {
            line.neuron = stacks::neuron(name, line.axis, line.index, shape_of);
        }
    }
}

/// Tells what the elements of norms' weights multiply by.
#[derive(Debug, Clone, Default)]
pub struct Norms {
    /// The tensors of norms that multiply by 1 + w.
    one_plus: BTreeSet<String>,
}

impl Norms {
    /// By the folder's config.json; without a readable one, the weights themselves.
    pub fn of(opened: &Opened) -> Norms {
        // The weights of a GGUF's norms are what they multiply by.
        let config = opened.config().ok().flatten().filter(|_| !opened.is_gguf());
        Norms { one_plus: config.and_then(|config| one_plus_norms(config).ok()).unwrap_or_default() }
    }

    /// The factor between an element of a vector and what it was: of Gemma's norms, between 1 + w.
    pub fn beta(&self, tensor: &str, before: f64, after: f64) -> Option<f64> {
        let added = if self.is_one_plus(tensor) { 1.0 } else { 0.0 };
        let beta = (added + after) / (added + before);
        beta.is_finite().then_some(beta)
    }

    fn is_one_plus(&self, tensor: &str) -> bool {
        if self.one_plus.is_empty() {
            return false;
        }
        // A wrapper's names are those of its text model.
        let name = tensor.parse::<ModulePath>();
        name.is_ok_and(|name| self.one_plus.contains(name.as_str()))
    }
}

/// Those of the text model and those beside it.
fn one_plus_norms(config: &ConfigFile) -> Result<BTreeSet<String>> {
    let recipe = Recipe::read(config)?;
    if !recipe.norm.is_one_plus() {
        return Ok(BTreeSet::new());
    }
    let modules = recipe.modules().into_iter().filter(|module| recipe.is_one_plus(module));
    let mut names: BTreeSet<String> = modules.map(|module| module.weight()).collect();
    if let OtherParts::Known(parts) = OtherParts::read(config, &recipe)? {
        // Transformers 4 puts nothing before these names, 5 puts `model.`.
        let parts = parts.into_iter().filter(|part| part.shut == Some(-1.0));
        names.extend(parts.flat_map(|part| [format!("model.{}", part.name), part.name]));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gemma 3 with a vision tower, whose norms multiply by w, and a norm between the two, which multiplies by 1 + w.
    #[test]
    fn norms_multiply_by_one_plus_w_where_the_model_does() {
        let folder = tempfile::tempdir().unwrap();
        let beta = |config: &str, tensor: &str| {
            std::fs::write(folder.path().join("config.json"), config).unwrap();
            Norms::of(&Opened::folder_at(folder.path())).beta(tensor, 1.0, 3.0).unwrap()
        };
        let gemma3 = r#"{"model_type": "gemma3", "text_config": {}, "vision_config": {}}"#;
        for (tensor, expected) in [
            ("language_model.model.layers.1.input_layernorm.weight", 2.0),
            ("model.language_model.layers.1.self_attn.q_norm.weight", 2.0),
            ("language_model.model.norm.weight", 2.0),
            ("multi_modal_projector.mm_soft_emb_norm.weight", 2.0),
            ("model.multi_modal_projector.mm_soft_emb_norm.weight", 2.0),
            ("vision_tower.vision_model.post_layernorm.weight", 3.0),
            ("model.layers.1.self_attn.q_proj.bias", 3.0),
        ] {
            assert_eq!(beta(gemma3, tensor), expected, "{tensor}");
        }
        assert_eq!(beta(r#"{"model_type": "gemma"}"#, "model.norm.weight"), 2.0);
        assert_eq!(beta(r#"{"model_type": "llama"}"#, "model.norm.weight"), 3.0);
        assert_eq!(beta("{}", "model.norm.weight"), 3.0);
    }
}
