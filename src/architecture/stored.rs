//! A checkpoint's tensors, held against those that its recipe reads.

use super::recipe::{EMBEDDING, HEAD, Recipe, TIED_HEAD_DIFFERS};
use crate::checkpoint::Tensors;
use crate::checkpoint::packing::Weight;
use crate::checkpoint::quantization::is_of_activations;
use crate::checkpoint::tensors::Entry;
use crate::error::{Error, Result};
use std::collections::{BTreeSet, HashSet};

/// Names that are listed at most.
const LISTED: usize = 50;

/// Names, and how many are not shown.
fn listed(names: &[&str]) -> String {
    let more = names.len().saturating_sub(LISTED);
    let shown = names[..names.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// Refuses a head in the file that differs from the embedding where the config says that the two are one: what would be
/// computed is a guess.
///
/// # Errors
/// There is one.
pub(crate) fn check_head(recipe: &Recipe, tensors: &Tensors) -> Result<()> {
    let (embedding, head) = (format!("{EMBEDDING}.weight"), format!("{HEAD}.weight"));
    if !recipe.tied || tensors.same(&embedding, &head) != Some(false) {
        return Ok(());
    }
    let problem = format!("differs from {}: {TIED_HEAD_DIFFERS}", tensors.stored_name(&embedding));
    Err(Error::tensor(tensors.root(), tensors.stored_name(&head), problem))
}

/// Number types in which a GGUF stores elements as themselves.
const NOT_CODES: [&str; 4] = ["F64", "F32", "F16", "BF16"];

/// What the weights that the recipe reads are packed in, such as `FP8`, in order of name; nothing where each element is
/// stored as itself.
pub(crate) fn formats(recipe: &Recipe, tensors: &Tensors) -> Vec<String> {
    let names = tensors_of(recipe, tensors).into_iter().map(|(name, _)| name);
    let packed = names.filter_map(|name| tensors.weight(&name).ok().filter(Weight::is_packed).map(|w| w.format()));
    let formats: BTreeSet<String> = packed.filter(|format| !NOT_CODES.contains(&format.as_str())).collect();
    formats.into_iter().collect()
}

/// Name and shape of every tensor of the checkpoint that the recipe reads, be the experts in it apart or in one.
pub(crate) fn tensors_of(recipe: &Recipe, tensors: &Tensors) -> Vec<(String, Vec<usize>)> {
    let found = |name: &str| {
        let weight = tensors.weight(name).ok();
        weight.map(|weight| (weight.shape().to_vec(), weight.is_packed())).unwrap_or_default()
    };
    recipe.tensors_in(|name| tensors.holds(name).then(|| found(name)))
}

/// Compares the checkpoint's tensors with those the recipe reads.
///
/// # Errors
/// A tensor is missing, has another shape than the config gives, or is not of a float dtype.
pub(crate) fn check(recipe: &Recipe, tensors: &Tensors) -> Result<()> {
    let root = tensors.root();
    if let (None, Some(other)) = (tensors.iter().next(), tensors.unknown().first()) {
        let problem = format!(
            "holds none of the tensors that its config asks for, but others such as {other}: with a text_config loaders \
             look for the text model under language_model"
        );
        return Err(Error::file(root, problem));
    }
    // Before the names of all of them are made, as a config can ask for billions.
    let (least, found) =
        (recipe.fewest_tensors(|name| tensors.weight(name).ok()?.shape().first().copied()), tensors.iter().count());
    if least > found {
        let problem =
            format!("holds {found} tensors, its config asks for at least {least}; the two do not belong together");
        return Err(Error::file(root, problem));
    }
    check_head(recipe, tensors)?;
    let expected = tensors_of(recipe, tensors);
    let missing: Vec<&str> = expected.iter().map(|(n, _)| n.as_str()).filter(|n| !tensors.holds(n)).collect();
    if let Some(first) = missing.first() {
        if let Some(fused) = recipe.fused_experts(|name| tensors.get(name).is_some()) {
            let problem = "holds all experts of a layer, expected a tensor for each expert, as transformers' \
                           save_pretrained writes them";
            return Err(Error::tensor(root, tensors.stored_name(&fused), problem));
        }
        let others = match &missing[1..] {
            [] => String::new(),
            others => format!(", and so are {}", listed(others)),
        };
        return Err(Error::tensor(root, *first, format!("is missing, the config asks for it{others}")));
    }
    let mut known = HashSet::new();
    for (name, shape) in &expected {
        let weight = tensors.weight(name)?;
        if weight.shape() != shape {
            let problem = format!("has shape {:?}, the config gives {shape:?}", weight.shape());
            return Err(Error::tensor(root, tensors.stored_name(name), problem));
        }
        if !weight.is_float() {
            let is_byte = weight.layout().number.bytes() == 1;
            let unscaled = if is_byte { ", or a scale beside it that says what its codes stand for" } else { "" };
            let problem = format!("has dtype {}, expected F32, F16, BF16 or F64{unscaled}", weight.dtypes());
            return Err(Error::tensor(root, tensors.stored_name(name), problem));
        }
        known.extend(weight.stored().into_iter().map(str::to_owned));
    }
    // Published Llama checkpoints carry the buffer that old transformers saved; a tied head is the embedding's equal.
    let used = |name: &str, entry: &Entry| {
        let is_head = recipe.tied && name.strip_suffix(".weight") == Some(HEAD);
        known.contains(name) || is_head || is_of_activations(name) || recipe.rotary_buffer(name, &entry.shape).is_some()
    };
    let extra: Vec<&str> = tensors.iter().filter(|(name, entry)| !used(name, entry)).map(|(name, _)| name).collect();
    let extra: Vec<&str> = extra.into_iter().chain(tensors.unknown().iter().map(String::as_str)).collect();
    if !extra.is_empty() {
        tracing::warn!(
            "{}: {} tensors are not used by {}: {}",
            root.display(),
            extra.len(),
            recipe.model_type,
            listed(&extra)
        );
    }
    Ok(())
}
