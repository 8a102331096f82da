//! Experts that a file has as stacks, a tensor for all of a layer with a matrix for each of them, such as
//! `mlp.experts.gate_up_proj` and `mlp.experts.down_proj`. A neuron of one is named as where each expert has tensors of its
//! own, `mlp.experts.17.down_proj:out:507`.

use super::channel_mixer::StackNames;
use super::neuron_place::{Axis, NeuronPlace};
use crate::neuron::{ModulePath, Neuron, Side, Site};

/// Tells the shape of a weight, if there is one of that name.
pub(crate) type ShapeOf<'a> = &'a dyn Fn(&str) -> Option<Vec<usize>>;

/// What the projections of an expert are called that is named as if it had tensors of its own.
const NAMES: [&str; 2] = ["gate_up_proj", "down_proj"];
/// The module of the experts, within the one that holds them.
const EXPERTS: &str = "experts";
/// What families call the modules of an expert.
const GATE: [&str; 2] = ["gate_proj", "w1"];
const UP: [&str; 2] = ["up_proj", "w3"];
/// The projections that read the gated product.
pub(super) const DOWN: [&str; 3] = ["down_proj", "w2", "output_linear"];
/// The activation's own module.
pub(super) const ACTIVATIONS: [&str; 3] = ["act_fn", "activation_fn", "activation"];

/// The two stacks of a layer.
struct Stacks {
    gate_up: Stack,
    down: Stack,
    /// Stored as [experts, in, out], not [experts, out, in].
    is_transposed: bool,
    /// Gate and up lie alternately, not one after the other: as in gpt-oss, whose experts alone have biases.
    is_interleaved: bool,
}

/// One of them.
struct Stack {
    tensor: String,
    shape: [usize; 3],
    bias: Option<(String, Vec<usize>)>,
}

impl Stacks {
    /// Those of the module `experts`; none where it has none, or their shapes do not tell how they lie.
    fn of(experts: &str, shape_of: ShapeOf) -> Option<Stacks> {
        let holder = experts.strip_suffix(EXPERTS)?;
        let stack = |name: &str| {
            let tensors = ["", ".weight"].map(|end| format!("{holder}{name}{end}"));
            let found = tensors.into_iter().find_map(|tensor| {
                let shape: [usize; 3] = shape_of(&tensor)?.try_into().ok()?;
                Some((tensor, shape))
            });
            let bias = format!("{holder}{name}_bias");
            let bias = shape_of(&bias).map(|shape| (bias, shape));
            found.map(|(tensor, shape)| Stack { tensor, shape, bias })
        };
        let (gate_up, down) =
            StackNames::ALL.iter().find_map(|names| Some((stack(names.gate_up)?, stack(names.down)?)))?;
        let ([experts, outer, inner], [same, rows, columns]) = (gate_up.shape, down.shape);
        let is_twice = |wide: usize, of: usize| of.checked_mul(2) == Some(wide);
        let is_plain = is_twice(outer, columns) && inner == rows;
        let is_transposed = is_twice(inner, rows) && outer == columns;
        let is_interleaved = gate_up.bias.is_some();
        let tells = experts == same && is_plain != is_transposed;
        tells.then_some(Stacks { gate_up, down, is_transposed, is_interleaved })
    }

    /// Along which axis a side's channels lie.
    fn axis(&self, side: Side) -> Axis {
        if (side == Side::Out) == self.is_transposed { Axis::Column } else { Axis::Row }
    }
}

impl Stack {
    /// Rows or columns of a matrix.
    fn along(&self, axis: Axis) -> usize {
        let [_, rows, columns] = self.shape;
        if axis == Axis::Row { rows } else { columns }
    }
}

/// `model.layers.5.mlp.experts`, 17 and `down_proj` of `model.layers.5.mlp.experts.17.down_proj`.
fn of_expert(module: &str) -> Option<(&str, usize, &str)> {
    let (before, rest) = module.split_once(".experts.")?;
    let (number, name) = rest.split_once('.')?;
    Some((&module[..before.len() + ".experts".len()], number.parse().ok()?, name))
}

/// What a factor on `neuron`, one of an expert, multiplies in the stacks of its layer: a row or column of a matrix, then
/// the element of the bias where they have one. Empty where there are no such stacks, or none of their lines is the
/// neuron alone.
pub(crate) fn parts(neuron: &Neuron, shape_of: ShapeOf) -> Vec<NeuronPlace> {
    let find = || {
        let (experts, number, name) = of_expert(neuron.site.module.as_str())?;
        let stacks = Stacks::of(experts, shape_of)?;
        let (side, channel) = (neuron.site.side, neuron.channel);
        let of_gate_up = |second: usize| {
            let half = stacks.gate_up.along(stacks.axis(Side::Out)) / 2;
            let at = if stacks.is_interleaved { channel * 2 + second } else { channel + second * half };
            (channel < half).then_some((&stacks.gate_up, Side::Out, at))
        };
        let (stack, lies, channel) = match side {
            // What goes into the down projection is the gated product.
            Side::Out if ACTIVATIONS.contains(&name) => Some((&stacks.down, Side::In, channel)),
            Side::Out if GATE.contains(&name) => of_gate_up(0),
            Side::Out if UP.contains(&name) => of_gate_up(1),
            _ if DOWN.contains(&name) => Some((&stacks.down, side, channel)),
            _ => (name == NAMES[0]).then_some((&stacks.gate_up, side, channel)),
        }?;
        let axis = stacks.axis(lies);
        let each = stack.along(axis);
        if number >= stack.shape[0] || channel >= each {
            return None;
        }
        let index = number * each + channel;
        let weight = NeuronPlace { tensor: stack.tensor.clone(), shape: stack.shape.to_vec(), axis, index };
        let bias = stack.bias.as_ref().filter(|(_, shape)| lies == Side::Out && **shape == [stack.shape[0], each]);
        let bias = bias.map(|(tensor, shape)| {
            let (tensor, shape) = (tensor.clone(), shape.clone());
            NeuronPlace { tensor, shape, axis: Axis::Element, index }
        });
        Some(std::iter::once(weight).chain(bias).collect())
    };
    find().unwrap_or_default()
}

/// Why no line of the stacks is `neuron` alone, where it is one of an expert that lies in such, and what comes nearest.
pub(crate) fn why_no_part(neuron: &Neuron, shape_of: ShapeOf) -> Option<String> {
    let (experts, number, name) = of_expert(neuron.site.module.as_str())?;
    let stacks = Stacks::of(experts, shape_of)?;
    let is_gate_or_up = GATE.contains(&name) || UP.contains(&name);
    let last = stacks.down.shape[0].saturating_sub(1);
    Some(match neuron.site.side {
        _ if number > last => format!("the layer has experts 0 to {last}"),
        Side::In if is_gate_or_up => format!(
            "gate and up read it from one column of {}: that is {experts}.{number}.{}:in:{}",
            stacks.gate_up.tensor, NAMES[0], neuron.channel
        ),
        Side::In if ACTIVATIONS.contains(&name) => {
            "an activation has no weights; its input is what gate_proj puts out".into()
        }
        _ => format!("{} and {} have no such channel", stacks.gate_up.tensor, stacks.down.tensor),
    })
}

/// Whether a tensor, if it has three dimensions, has a matrix for each expert.
pub(super) fn is_stack(tensor: &str) -> bool {
    tensor.contains(".experts.") || holder_and_name(tensor).is_some()
}

/// What the name of a stack begins with, up to the module that holds the experts, and which of the two it is.
fn holder_and_name(tensor: &str) -> Option<(&str, &'static str)> {
    let holder = |stack: &str| {
        let plain = tensor.strip_suffix(stack).or_else(|| tensor.strip_suffix(".weight")?.strip_suffix(stack));
        plain.filter(|holder| holder.ends_with('.'))
    };
    StackNames::ALL.iter().find_map(|StackNames { gate_up, down }| {
        [*gate_up, down].into_iter().zip(NAMES).find_map(|(stack, name)| Some((holder(stack)?, name)))
    })
}

/// The neuron that a row or column of a stack is.
pub(crate) fn neuron(tensor: &str, axis: Axis, index: usize, shape_of: ShapeOf) -> Option<Neuron> {
    let (holder, name) = holder_and_name(tensor)?;
    let experts = format!("{holder}{EXPERTS}");
    let stacks = Stacks::of(&experts, shape_of)?;
    let stack = [&stacks.gate_up, &stacks.down].into_iter().find(|stack| stack.tensor == tensor)?;
    let each = Some(stack.along(axis)).filter(|each| *each > 0)?;
    let side = if stacks.axis(Side::Out) == axis { Side::Out } else { Side::In };
    let module: ModulePath = format!("{experts}.{}.{name}", index / each).parse().ok()?;
    Some(Neuron { site: Site { module, side }, channel: index % each })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPERTS: &str = "model.layers.5.mlp.experts";

    #[test]
    fn granites_stacks_have_names_of_their_own() {
        let holder = "model.layers.5.block_sparse_moe.";
        let shape_of: ShapeOf = &|name| match name.strip_prefix(holder)? {
            "input_linear.weight" => Some(vec![3, 12, 4]),
            "output_linear.weight" => Some(vec![3, 4, 6]),
            _ => None,
        };
        for (neuron_, line) in [
            ("1.up_proj:out:5", "row 11 of matrix 1 of input_linear.weight [3, 12, 4]"),
            ("2.down_proj:in:5", "column 5 of matrix 2 of output_linear.weight [3, 4, 6]"),
        ] {
            let asked: Neuron = format!("{holder}experts.{neuron_}").parse().unwrap();
            let found = parts(&asked, shape_of);
            assert_eq!(found[0].to_string().replace(holder, ""), line);
            let told = neuron(&found[0].tensor, found[0].axis, found[0].index, shape_of).unwrap();
            assert_eq!(parts(&told, shape_of), found);
            assert!(is_stack(&found[0].tensor));
        }
        assert!(!is_stack("model.layers.5.mlp.down_proj.weight"));
    }

    /// Three experts, hidden 4, intermediate 6.
    fn shapes(name: &str, is_transposed: bool, has_bias: bool) -> Option<Vec<usize>> {
        let shape = match name.strip_prefix(EXPERTS)? {
            ".gate_up_proj" => [3, 12, 4],
            ".down_proj" => [3, 4, 6],
            ".gate_up_proj_bias" if has_bias => return Some(vec![3, 12]),
            ".down_proj_bias" if has_bias => return Some(vec![3, 4]),
            _ => return None,
        };
        Some(if is_transposed { vec![shape[0], shape[2], shape[1]] } else { shape.to_vec() })
    }

    #[test]
    fn a_neuron_of_an_expert_is_a_line_of_a_matrix() {
        let lies = |neuron: &str, is_transposed, has_bias| -> Vec<String> {
            let neuron: Neuron = format!("L5.mlp.experts.{neuron}").parse().unwrap();
            let parts = parts(&neuron, &|name| shapes(name, is_transposed, has_bias));
            let of = |part: &NeuronPlace| part.to_string().replace(EXPERTS, "");
            parts.iter().map(of).collect()
        };
        for (neuron, plain, transposed) in [
            (
                "2.down_proj:out:3",
                "row 3 of matrix 2 of .down_proj [3, 4, 6]",
                "column 3 of matrix 2 of .down_proj [3, 6, 4]",
            ),
            ("2.w2:in:5", "column 5 of matrix 2 of .down_proj [3, 4, 6]", "row 5 of matrix 2 of .down_proj [3, 6, 4]"),
            (
                "1.act_fn:out:5",
                "column 5 of matrix 1 of .down_proj [3, 4, 6]",
                "row 5 of matrix 1 of .down_proj [3, 6, 4]",
            ),
            (
                "0.gate_up_proj:in:1",
                "column 1 of matrix 0 of .gate_up_proj [3, 12, 4]",
                "row 1 of matrix 0 of .gate_up_proj [3, 4, 12]",
            ),
            (
                "0.gate_up_proj:out:11",
                "row 11 of matrix 0 of .gate_up_proj [3, 12, 4]",
                "column 11 of matrix 0 of .gate_up_proj [3, 4, 12]",
            ),
            (
                "1.gate_proj:out:5",
                "row 5 of matrix 1 of .gate_up_proj [3, 12, 4]",
                "column 5 of matrix 1 of .gate_up_proj [3, 4, 12]",
            ),
            (
                "1.up_proj:out:5",
                "row 11 of matrix 1 of .gate_up_proj [3, 12, 4]",
                "column 11 of matrix 1 of .gate_up_proj [3, 4, 12]",
            ),
        ] {
            assert_eq!(
                (lies(neuron, false, false), lies(neuron, true, false)),
                (vec![plain.to_owned()], vec![transposed.to_owned()])
            );
            let with_bias = lies(neuron, false, true);
            assert_eq!(
                with_bias.len(),
                if neuron.contains(":out:") && !neuron.contains("act_fn") { 2 } else { 1 },
                "{with_bias:?}"
            );
        }
        assert_eq!(lies("1.up_proj:out:5", false, true)[1], "element 11 of row 1 of .gate_up_proj_bias [3, 12]");
        assert_eq!(lies("1.gate_proj:out:2", false, true)[0], "row 4 of matrix 1 of .gate_up_proj [3, 12, 4]");
        for neuron in [
            "3.down_proj:out:0",
            "0.down_proj:out:4",
            "0.gate_proj:out:6",
            "0.gate_proj:in:0",
            "0.act_fn:in:0",
            "0.x:out:0",
        ] {
            assert!(lies(neuron, false, false).is_empty(), "{neuron}");
        }
        // A line that is a neuron is what that neuron is.
        for is_transposed in [false, true] {
            let shape_of: ShapeOf = &|name| shapes(name, is_transposed, false);
            for (tensor, axis, index) in
                [("gate_up_proj", Axis::Row, 9), ("down_proj", Axis::Column, 11), ("down_proj", Axis::Row, 4)]
            {
                let tensor = format!("{EXPERTS}.{tensor}");
                let found = neuron(&tensor, axis, index, shape_of).unwrap();
                let back = parts(&found, shape_of);
                assert_eq!((&back[0].tensor, back[0].axis, back[0].index), (&tensor, axis, index), "{found}");
            }
        }
    }
}
