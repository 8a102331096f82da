//! Parts of a model that text never goes through: nothing is computed with them, so that only their tensors are known.

use super::recipe::Recipe;
use crate::checkpoint::ConfigFile;
use crate::checkpoint::config::Reader;
use crate::error::Result;

/// The tensors of such parts.
#[derive(Debug, Clone, PartialEq)]
pub enum OtherParts {
    /// All tensors that the parts have.
    Known(Vec<PartTensor>),
    /// Those of a class that is not known here, or none.
    Unknown,
}

/// A tensor of such a part.
#[derive(Debug, Clone, PartialEq)]
pub struct PartTensor {
    /// As transformers 5 names it, without `model.` before it.
    pub name: String,
    /// The shape that the config asks for, outermost dimension first.
    pub shape: Vec<usize>,
    /// The weight of a norm with which nothing comes through, where it is a norm's.
    pub shut: Option<f32>,
    /// Whether the model reads it.
    pub is_read: bool,
}

/// Layers of the deepest towers published, some times over.
const MOST_LAYERS: usize = 1000;

impl OtherParts {
    /// What the config of a model has beside the text model that `recipe` describes.
    ///
    /// # Errors
    /// Such a part is known, and a key of it is not what it should be.
    pub fn read(config: &ConfigFile, recipe: &Recipe) -> Result<OtherParts> {
        let whole = config.reader();
        let Some(vision) = whole.object_opt("vision_config")? else { return Ok(OtherParts::Unknown) };
        let is_siglip = vision.str_opt("model_type")?.is_none_or(|class| class == "siglip_vision_model");
        if whole.str_opt("model_type")? != Some("gemma3") || !is_siglip {
            return Ok(OtherParts::Unknown);
        }
        let mut tensors = siglip(&vision)?;
        let width = vision.size_or("hidden_size", 768)?;
        let add = |name: &str, shape, shut| PartTensor {
            name: format!("multi_modal_projector.{name}"),
            shape,
            shut,
            is_read: true,
        };
        tensors.push(add("mm_input_projection_weight", vec![width, recipe.hidden_size], None));
        // As the text model's norms it multiplies by 1 + w.
        tensors.push(add("mm_soft_emb_norm.weight", vec![width], Some(-1.0)));
        Ok(OtherParts::Known(tensors))
    }
}

/// SigLIP's vision model (Zhai et al. 2023) as Gemma 3 has it: what it reads is the output of the last layer, so that
/// the head, which the class makes where the config does not say otherwise, goes unread.
fn siglip(c: &Reader) -> Result<Vec<PartTensor>> {
    let (width, wide) = (c.size_or("hidden_size", 768)?, c.size_or("intermediate_size", 3072)?);
    let (image, patch) = (c.size_or("image_size", 224)?, c.size_or("patch_size", 16)?);
    let (channels, layers) = (c.size_or("num_channels", 3)?, c.usize_or("num_hidden_layers", 12)?);
    if layers > MOST_LAYERS {
        return Err(c.wrong("num_hidden_layers", &format!("up to {MOST_LAYERS}")));
    }
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: Vec<usize>, shut, is_read| {
        tensors.push(PartTensor { name: format!("vision_tower.{name}"), shape, shut, is_read });
    };
    add("embeddings.patch_embedding.weight".into(), vec![width, channels, patch, patch], None, true);
    add("embeddings.patch_embedding.bias".into(), vec![width], None, true);
    add("embeddings.position_embedding.weight".into(), vec![(image / patch).pow(2), width], None, true);
    let mut linear = |name: String, to: usize, from: usize, is_read| {
        add(format!("{name}.weight"), vec![to, from], None, is_read);
        add(format!("{name}.bias"), vec![to], None, is_read);
    };
    for layer in (0..layers).map(|layer| format!("encoder.layers.{layer}")) {
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            linear(format!("{layer}.self_attn.{name}"), width, width, true);
        }
        linear(format!("{layer}.mlp.fc1"), wide, width, true);
        linear(format!("{layer}.mlp.fc2"), width, wide, true);
    }
    let has_head = c.bool_or("vision_use_head", true)?;
    if has_head {
        linear("head.attention.out_proj".into(), width, width, false);
        linear("head.mlp.fc1".into(), wide, width, false);
        linear("head.mlp.fc2".into(), width, wide, false);
        add("head.attention.in_proj_weight".into(), vec![3 * width, width], None, false);
        add("head.attention.in_proj_bias".into(), vec![3 * width], None, false);
        add("head.probe".into(), vec![1, 1, width], None, false);
    }
    let mut norm = |name: String, is_read| {
        add(format!("{name}.weight"), vec![width], Some(0.0), is_read);
        add(format!("{name}.bias"), vec![width], None, is_read);
    };
    for layer in 0..layers {
        norm(format!("encoder.layers.{layer}.layer_norm1"), true);
        norm(format!("encoder.layers.{layer}.layer_norm2"), true);
    }
    norm("post_layernorm".into(), true);
    if has_head {
        norm("head.layernorm".into(), false);
    }
    Ok(tensors)
}
