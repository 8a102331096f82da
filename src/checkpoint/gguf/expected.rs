//! The tensors that a family of some sizes has, and how each is made of what the file has.

use super::architecture::Architecture;
use super::file::GgufFile;
use super::lies::{Heads, Lies, Order, Stored, Turns, Values};
use super::rope;
use super::rule::{Dim, Expert, Need, Role, Rule};
use super::sizes::{DeltaSizes, LatentSizes, Sizes};
use std::collections::HashSet;

/// Where a tensor comes from.
#[derive(Debug)]
pub(super) struct Source {
    pub shape: Vec<usize>,
    pub lies: Lies,
}

/// Whether each group of a family's tensors is there.
pub(super) fn present(
    file: &GgufFile,
    architecture: &'static Architecture,
    sizes: &Sizes,
) -> impl Iterator<Item = (Need, bool)> {
    architecture.groups.iter().map(|(rules, need)| {
        let layer = match need {
            Need::Switch(_, layers) => (0..sizes.layers).find(|layer| sizes.has(*layers, *layer)),
            _ => Some(0),
        };
        let is_there = |layer| rules.iter().any(|rule| file.tensor(&rule.stored(layer)).is_some());
        (*need, layer.is_some_and(is_there))
    })
}

/// A tensor that a family of some sizes has, or all of a layer's experts.
pub(super) struct Expected {
    rule: &'static Rule,
    layer: usize,
    /// What it is made of in the file: names and shapes.
    pub stored: Vec<(String, Vec<usize>)>,
    /// Gate and up of experts are halves of one matrix.
    is_fused: bool,
}

/// Every tensor that a family of these sizes has.
pub(super) fn expected<'a>(
    file: &'a GgufFile,
    architecture: &'static Architecture,
    sizes: &'a Sizes,
) -> impl Iterator<Item = Expected> + 'a {
    let groups = architecture.groups.iter().zip(present(file, architecture, sizes));
    groups.flat_map(move |((rules, _), (need, is_there))| {
        let of = move |layer| match need {
            Need::Always => true,
            Need::In(layers) => sizes.has(layers, layer),
            Need::Switch(_, layers) => is_there && sizes.has(layers, layer),
            Need::Untied => is_there,
        };
        rules.iter().flat_map(move |rule| {
            let layers = (0..rule.layers(sizes.layers)).filter(move |layer| of(*layer));
            layers.map(move |layer| Expected::of(file, rule, layer, sizes))
        })
    })
}

impl Expected {
    fn of(file: &GgufFile, rule: &'static Rule, layer: usize, sizes: &Sizes) -> Expected {
        let shape: Vec<usize> = rule.shape.iter().map(|dim| sizes.of(*dim, layer)).collect();
        let (name, block) = (rule.stored(layer), |name: &str| format!("blk.{layer}.{name}.weight"));
        let mut is_fused = false;
        let stored = match rule.role {
            Role::Expert(part) => {
                let fused = block("ffn_gate_up_exps");
                is_fused = part != Expert::Own && file.tensor(&fused).is_some();
                let mut stack = [&[sizes.of(Dim::Experts, layer)], &shape[..]].concat();
                if is_fused {
                    stack[1] *= 2;
                }
                vec![(if is_fused { fused } else { name }, stack)]
            }
            Role::WithoutOnes | Role::KeysAndValueHeads => {
                vec![(name, shape.into_iter().filter(|dim| *dim != 1).collect())]
            }
            Role::ByKeyHead => {
                let [all, mixed, values] =
                    [Dim::MixedAndGates, Dim::Mixed, Dim::Values].map(|dim| vec![sizes.of(dim, layer), sizes.hidden]);
                match file.tensor(&block("ssm_in")) {
                    Some(_) => vec![(block("ssm_in"), all)],
                    None => vec![(name, mixed), (block("attn_gate"), values)],
                }
            }
            Role::KeysAndValues => {
                let LatentSizes { key_value, plain, value, .. } = sizes.latent;
                match file.tensor(&block("attn_kv_b")) {
                    Some(_) => vec![(block("attn_kv_b"), shape)],
                    None => vec![
                        (name, vec![sizes.heads, key_value, plain]),
                        (block("attn_v_b"), vec![sizes.heads, value, key_value]),
                    ],
                }
            }
            _ => vec![(name, shape)],
        };
        Expected { rule, layer, stored, is_fused }
    }

    /// Each tensor under Hugging Face's name.
    pub fn sources(&self, architecture: &Architecture, sizes: &Sizes) -> Vec<(String, Source)> {
        let shape: Vec<usize> = self.rule.shape.iter().map(|dim| sizes.of(*dim, self.layer)).collect();
        let Some((gguf, stored)) = self.stored.first() else { return Vec::new() };
        let Role::Expert(part) = self.rule.role else {
            let whole = Stored::whole(gguf.clone(), shape.clone());
            let lies = match &self.stored[..] {
                [_, (beside, _)] => self.joined(gguf, beside, sizes),
                _ => Lies::In(self.rule.role.of(architecture, sizes, self.layer, whole)),
            };
            return vec![(self.rule.named(self.layer, 0), Source { shape, lies })];
        };
        let count = stored.first().copied().unwrap_or_default();
        let of = |expert: usize| {
            let mut of_all = Stored { matrix: expert, ..Stored::whole(gguf.clone(), stored.clone()) };
            if self.is_fused {
                // As a stack of twice as many matrices: gates and what stands beside them in turns.
                of_all.shape = [&[2 * count], &shape[..]].concat();
                of_all.matrix = 2 * expert + usize::from(part == Expert::Up);
            }
            let source = Source { shape: shape.clone(), lies: Lies::In(of_all) };
            (self.rule.named(self.layer, expert), source)
        };
        (0..count).map(of).collect()
    }

    /// Of a tensor that is two in the file.
    fn joined(&self, gguf: &str, beside: &str, sizes: &Sizes) -> Lies {
        let gguf = [gguf.to_owned(), beside.to_owned()];
        if self.rule.role == Role::KeysAndValues {
            let [keys, values] = gguf;
            let heads = Heads { keys: sizes.latent.plain, values: sizes.latent.value };
            return Lies::Heads { keys, values, heads };
        }
        let DeltaSizes { key_heads, value_heads, key, value } = sizes.delta;
        let (keys, values) = (key_heads * key, value_heads / key_heads.max(1) * value);
        Lies::Turns(Turns { gguf, parts: vec![(0, 0, key), (0, keys, key), (0, 2 * keys, values), (1, 0, values)] })
    }
}

impl Role {
    /// What became of a tensor that is one in the file, too.
    fn of(self, architecture: &Architecture, sizes: &Sizes, layer: usize, stored: Stored) -> Stored {
        let DeltaSizes { key_heads, value_heads, key, value } = sizes.delta;
        let tiled = |first, size| match architecture.tiles_value_heads {
            true => Order::Tiled { first, groups: key_heads, each: value_heads / key_heads.max(1), size },
            false => Order::Same,
        };
        match self {
            Role::Rotary if architecture.interleaves_heads => {
                Stored { rows: Order::Interleaved(sizes.of(Dim::HeadSize, layer)), ..stored }
            }
            Role::Norm if architecture.adds_one_to_norms => Stored { values: Values::OneMore, ..stored },
            Role::ValueHead => Stored { rows: tiled(0, 1), ..stored },
            Role::ValueHeads => Stored { rows: tiled(0, value), ..stored },
            Role::KeysAndValueHeads => Stored { rows: tiled(2 * key_heads * key, value), ..stored },
            Role::FromValueHeads => Stored { columns: tiled(0, value), ..stored },
            Role::DecayRates => Stored { rows: tiled(0, 1), values: Values::DecayRates, ..stored },
            _ => stored,
        }
    }
}

/// Tensors that no rule names: they would be left out without a word.
pub(super) fn unknown<'f>(
    file: &'f GgufFile,
    architecture: &'static Architecture,
    sizes: &'f Sizes,
    known: &'f HashSet<String>,
) -> impl Iterator<Item = &'f str> {
    let of_rope = |name: &str| rope::tensors(architecture).any(|known| known == name);
    let names = file.tensors().map(|(name, _)| name);
    names.filter(move |name| !known.contains(*name) && !of_rope(name) && !is_left_alone(name, sizes))
}

/// Whether a tensor is of a layer that predicts further tokens, or a key or value of one that borrows both.
fn is_left_alone(name: &str, sizes: &Sizes) -> bool {
    let of_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let Some((Ok(layer), rest)) = of_layer.map(|(layer, rest)| (layer.parse::<usize>(), rest)) else { return false };
    match sizes.each.get(layer) {
        None => layer < sizes.layers + sizes.further,
        Some(of_layer) => {
            !of_layer.has_keys && ["attn_k.", "attn_v.", "attn_k_norm."].iter().any(|n| rest.starts_with(n))
        }
    }
}
