//! Names divided into stacks of numbered members, and these into kinds.

use crate::integrity::lint::tensors::role;
use std::collections::{BTreeMap, BTreeSet};

/// A weight.
#[derive(Debug, Clone, Copy)]
pub struct Unit<'w> {
    pub name: &'w str,
    /// None of what cannot be unpacked.
    pub shape: &'w [usize],
}

/// The numbers in a name that are looked at: layers, experts, what is in them. More are none of a model's.
const MOST_NUMBERS: usize = 4;

/// The numbers in a name: what stands before each, the number, and what stands after it.
pub fn numbers(name: &str) -> impl Iterator<Item = (&str, usize, &str)> {
    let ends = name.match_indices('.').map(|(at, _)| at);
    let starts = std::iter::once(0).chain(ends.clone().map(|at| at + 1));
    let parts = starts.zip(ends).filter_map(|(from, to)| {
        let part = name.get(from..to)?;
        let is_number = !part.is_empty() && part.len() < 10 && part.bytes().all(|b| b.is_ascii_digit());
        Some((name.get(..from)?, part.parse().ok().filter(|_| is_number)?, name.get(to + 1..)?))
    });
    parts.take(MOST_NUMBERS)
}

/// Where there are more kinds of members than models have, each is as good as any.
const MOST_KINDS: usize = 64;

/// A member of a stack: what it holds, by the rest of its name.
type Member<'w> = BTreeMap<&'w str, Unit<'w>>;

/// All stacks.
pub struct Stacks<'w> {
    /// By what stands before their numbers.
    stacks: BTreeMap<&'w str, BTreeMap<usize, Member<'w>>>,
    layer_types: &'w [String],
}

/// The members of all stacks of one name.
struct Kinds<'s, 'w> {
    /// The name, with numbers taken out.
    stack: String,
    kinds: Vec<Kind<'s, 'w>>,
}

/// Members that hold the same, and are layers of one sort where that is known.
struct Kind<'s, 'w> {
    sort: Option<&'s str>,
    /// What stands before their numbers, and these.
    members: Vec<(&'w str, usize, &'s Member<'w>)>,
}

/// A member that lacks little of what many others have.
pub struct OddMember<'w> {
    pub member: String,
    pub stack: String,
    pub missing: Vec<String>,
    /// How many have it.
    pub peers: usize,
    /// A weight that it does hold.
    pub beside: &'w str,
}

/// A weight of another shape than all of its peers.
pub struct OddShape<'w> {
    pub unit: Unit<'w>,
    pub role: String,
    pub usual: &'w [usize],
    pub peers: usize,
}

/// A number that no member has.
pub struct Gap<'w> {
    pub prefix: &'w str,
    pub number: usize,
    pub members: usize,
    /// A weight of the member before it.
    pub beside: &'w str,
}

impl<'w> Stacks<'w> {
    /// `layer_types`: of which sort the layers are, by their number; empty where that is not known.
    pub fn of(units: &[Unit<'w>], layer_types: &'w [String]) -> Stacks<'w> {
        let mut stacks: BTreeMap<&str, BTreeMap<usize, Member>> = BTreeMap::new();
        for unit in units {
            for (prefix, number, rest) in numbers(unit.name) {
                stacks.entry(prefix).or_default().entry(number).or_default().insert(rest, *unit);
            }
        }
        Stacks { stacks, layer_types }
    }

    /// Whether a weight is that of the first or last of matrices that follow one another: `bbox_predictor.layers.2.weight`.
    fn is_end_of_chain(&self, name: &str) -> bool {
        let Some((prefix, number, rest)) = numbers(name).last() else { return false };
        let members = self.stacks.get(prefix);
        let ends = members.and_then(|members| Some([*members.keys().next()?, *members.keys().last()?]));
        !rest.contains('.') && ends.is_some_and(|ends| ends.contains(&number))
    }

    /// The kinds of members of all stacks, those that lie deepest first.
    fn kinds(&self) -> Vec<Kinds<'_, 'w>> {
        type ByContent<'s, 'w> = BTreeMap<(Option<&'s str>, Vec<&'w str>), Vec<(&'w str, usize, &'s Member<'w>)>>;
        let mut named: BTreeMap<String, ByContent> = BTreeMap::new();
        for (prefix, members) in &self.stacks {
            let of_name = named.entry(role(prefix)).or_default();
            let is_typed = prefix.ends_with("layers.") && members.len() == self.layer_types.len();
            for (number, member) in members {
                let sort = self.layer_types.get(*number).filter(|_| is_typed).map(String::as_str);
                let content = member.keys().copied().collect();
                of_name.entry((sort, content)).or_default().push((prefix, *number, member));
            }
        }
        let mut all: Vec<Kinds> = Vec::new();
        for (stack, kinds) in named {
            let kinds = kinds.into_iter().map(|((sort, _), members)| Kind { sort, members }).collect();
            all.push(Kinds { stack, kinds });
        }
        all.sort_by_key(|kinds| std::cmp::Reverse(kinds.stack.split('.').count()));
        all
    }

    /// Members that hold little less than those of a kind of many.
    pub fn odd_members(&self) -> Vec<OddMember<'w>> {
        let mut odd = Vec::new();
        let of_few_kinds = |kinds: &Kinds| kinds.kinds.len() <= MOST_KINDS;
        for Kinds { stack, kinds } in self.kinds().into_iter().filter(of_few_kinds) {
            for Kind { sort, members: few } in &kinds {
                let Some((_, _, own)) = few.first() else { continue };
                let is_many = |many: &&Kind| {
                    let (many_more, more) = (many.members.len() >= 10 * few.len(), many.members.len() > few.len());
                    many.sort == *sort && (many_more || (more && few.len() == 1)) && many.members.len() > 1
                };
                let lack = |many: &Kind<'_, 'w>| Some((lacks(own, many.members.first()?.2)?, many.members.len()));
                let nearest = kinds.iter().filter(is_many).filter_map(lack).min_by_key(|(missing, _)| missing.len());
                let Some((missing, peers)) = nearest else { continue };
                for (prefix, number, member) in few {
                    let is_first = self.stacks.get(prefix).and_then(|members| members.keys().next()) == Some(number);
                    // A first layer may do without what goes from one layer to the next, or without a norm.
                    if is_first && !missing.iter().all(|rest| is_projection(rest)) {
                        continue;
                    }
                    let Some(beside) = member.values().next() else { continue };
                    odd.push(OddMember {
                        member: format!("{prefix}{number}"),
                        stack: format!("{stack}N"),
                        missing: missing.iter().map(|rest| format!("{prefix}{number}.{rest}")).collect(),
                        peers,
                        beside: beside.name,
                    });
                }
            }
        }
        odd
    }

    /// Members that are not there, though those around them are.
    pub fn gaps(&self, layers: Option<usize>) -> Vec<Gap<'w>> {
        let mut gaps = Vec::new();
        for (prefix, members) in &self.stacks {
            let (Some(first), Some(last)) = (members.keys().next(), members.keys().next_back()) else { continue };
            let modules = members.values().map(|member| modules(member).len()).min().unwrap_or(0);
            // Parts of a sequence, of which some hold no weights, are no stack.
            let is_stack = members.len() > 2 && modules > 1;
            let counted =
                layers.filter(|layers| TEXT_LAYERS.contains(prefix) && *first < *layers && members.len() * 2 > *layers);
            let (from, to) = if counted.is_some() { (0, counted.unwrap_or(0).max(*last)) } else { (*first, *last) };
            let absent = (to - from).saturating_sub(members.range(from..to).count());
            let most = if counted.is_some() { members.len() } else { members.len() / 4 };
            if (!is_stack && counted.is_none()) || absent > most {
                continue;
            }
            for number in (from..to).filter(|number| !members.contains_key(number)) {
                let before = members.range(..number).next_back().or(members.iter().next());
                let Some(beside) = before.and_then(|(_, member)| member.values().next()) else { continue };
                gaps.push(Gap { prefix, number, members: members.len(), beside: beside.name });
            }
        }
        gaps
    }

    /// Weights whose shape is another than in all other members of the kind, while all else of the member is as there.
    pub fn odd_shapes(&self) -> Vec<OddShape<'w>> {
        let mut odd = Vec::new();
        for Kinds { kinds, .. } in self.kinds() {
            for kind in kinds.iter().filter(|kind| kind.members.len() > 1) {
                odd.extend(odd_in(&kind.members));
            }
        }
        // What is odd among experts is odd in its layer as well.
        let mut told = BTreeSet::new();
        odd.retain(|shape: &OddShape| told.insert(shape.unit.name) && !self.is_end_of_chain(shape.unit.name));
        odd
    }
}

/// Where text models keep their layers.
const TEXT_LAYERS: [&str; 6] = [
    "model.layers.",
    "language_model.model.layers.",
    "model.language_model.layers.",
    "transformer.h.",
    "backbone.layers.",
    "layers.",
];

/// The names of modules.
fn modules<'w>(member: &Member<'w>) -> BTreeSet<&'w str> {
    member.keys().map(|rest| rest.rsplit_once('.').map_or(*rest, |(module, _)| module)).collect()
}

/// What one member lacks of another, where that is little, and it has nothing else instead but under another name. Blocks
/// of convolutions over images are made each in its own way.
fn lacks<'w>(own: &Member<'w>, other: &Member<'w>) -> Option<Vec<&'w str>> {
    let missing: Vec<&str> = other.keys().filter(|rest| !own.contains_key(*rest)).copied().collect();
    let instead = own.keys().filter(|rest| !other.contains_key(*rest)).count();
    let is_little = !missing.is_empty() && missing.len() * 3 <= other.len();
    let is_renamed = instead == 1 && missing.len() == 1 && other.len() > 4;
    let is_of_images = other.values().any(|unit| unit.shape.len() > 3);
    (is_little && (instead == 0 || is_renamed) && !is_of_images && modules(other).len() > 1).then_some(missing)
}

/// Whether a name is that of a matrix that every layer has.
fn is_projection(rest: &str) -> bool {
    const NAMES: [&str; 12] =
        ["w1", "w2", "w3", "fc1", "fc2", "dense", "query", "key", "value", "c_attn", "c_fc", "query_key_value"];
    let module = rest.rsplit_once('.').map_or(rest, |(module, _)| module);
    let last = module.rsplit('.').next().unwrap_or_default();
    let in_gguf = last.starts_with("attn_") || last.starts_with("ffn_");
    last.ends_with("proj") || NAMES.contains(&last) || in_gguf && !last.contains("norm")
}

/// Of members that hold the same, a weight of one whose shape is another than in all others.
fn odd_in<'w>(members: &[(&'w str, usize, &Member<'w>)]) -> Vec<OddShape<'w>> {
    let Some((_, _, first)) = members.first() else { return Vec::new() };
    let modules = modules(first).len();
    let mut of_member: BTreeMap<usize, Vec<OddShape<'w>>> = BTreeMap::new();
    for rest in first.keys() {
        let units: Vec<Unit> = members.iter().filter_map(|(_, _, member)| member.get(rest)).copied().collect();
        let mut shapes: BTreeMap<&[usize], Vec<usize>> = BTreeMap::new();
        for (at, unit) in units.iter().enumerate().filter(|(_, unit)| !unit.shape.is_empty()) {
            shapes.entry(unit.shape).or_default().push(at);
        }
        let Some((usual, peers)) = shapes.iter().max_by_key(|(_, of)| (of.len(), std::cmp::Reverse(of[0]))) else {
            continue;
        };
        // Of two, the one that comes later is named.
        let is_sure = shapes.len() == 2 && (units.len() > 2 || modules > 4);
        for (_, at) in shapes
            .iter()
            .filter(|(shape, _)| *shape != usual)
            .flat_map(|(shape, of)| of.iter().map(move |at| (shape, at)))
        {
            // Convolutions of a first stage take another number of channels, and widths may differ from layer to layer.
            let told = is_sure && peers.len() + 1 == units.len() && units[*at].shape.len() < 4;
            let unit = units[*at];
            let of = of_member.entry(*at).or_default();
            of.push(OddShape { unit, role: role(unit.name), usual, peers: if told { peers.len() } else { 0 } });
        }
    }
    let is_one = |shapes: &Vec<OddShape>| {
        let modules: BTreeSet<&str> =
            shapes.iter().map(|odd| odd.unit.name.rsplit_once('.').map_or("", |(m, _)| m)).collect();
        modules.len() == 1 && shapes.iter().all(|odd| odd.peers > 0)
    };
    of_member.into_values().filter(is_one).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: [&str; 4] = ["attn.q.weight", "attn.o.weight", "mlp.up_proj.weight", "norm.weight"];

    /// The names of layers, without those that `left_out` names.
    fn layers(count: usize, left_out: &[&str]) -> Vec<String> {
        let all = (0..count).flat_map(|n| LAYER.map(|rest| format!("model.layers.{n}.{rest}")));
        all.filter(|name| !left_out.contains(&name.as_str())).collect()
    }

    fn stacks<'w>(names: &'w [String], types: &'w [String]) -> Stacks<'w> {
        Stacks::of(&names.iter().map(|name| Unit { name, shape: &[4, 4] }).collect::<Vec<_>>(), types)
    }

    fn missing(names: &[String], types: &[String]) -> Vec<String> {
        stacks(names, types).odd_members().into_iter().flat_map(|odd| odd.missing).collect()
    }

    #[test]
    fn numbers_are_what_stands_alone_between_dots() {
        let found: Vec<_> = numbers("model.layers.3.mlp.experts.12.w1.weight").collect();
        let expected =
            [("model.layers.", 3, "mlp.experts.12.w1.weight"), ("model.layers.3.mlp.experts.", 12, "w1.weight")];
        assert_eq!(found, expected);
        for none in ["", "a.w1.b", "a.7", "a..b", "a.1234567890.b"] {
            assert_eq!(numbers(none).count(), 0, "{none}");
        }
        assert_eq!(numbers(&"1.".repeat(1000)).count(), MOST_NUMBERS);
    }

    #[test]
    fn the_odd_one_out_lacks_little_of_what_many_have() {
        assert_eq!(missing(&layers(4, &[]), &[]), [""; 0]);
        let lacks_up = "model.layers.2.mlp.up_proj.weight";
        assert_eq!(missing(&layers(4, &[lacks_up]), &[]), [lacks_up]);
        // Of two nobody knows which is right; a first layer may do without a norm, not without a projection.
        assert_eq!(missing(&layers(2, &["model.layers.1.mlp.up_proj.weight"]), &[]), [""; 0]);
        assert_eq!(missing(&layers(4, &["model.layers.0.norm.weight"]), &[]), [""; 0]);
        let first = "model.layers.0.mlp.up_proj.weight";
        assert_eq!(missing(&layers(4, &[first]), &[]), [first]);
        // Half of a layer is another kind of layer, and so is one of another sort by the config.
        assert_eq!(
            missing(&layers(4, &["model.layers.2.attn.q.weight", "model.layers.2.attn.o.weight"]), &[]),
            [""; 0]
        );
        let types = ["a", "a", "b", "a"].map(str::to_owned);
        assert_eq!(missing(&layers(4, &[lacks_up]), &types), [""; 0]);
    }

    #[test]
    fn gaps_are_told_where_there_is_a_stack() {
        let gaps = |names: &[String], layers: Option<usize>| {
            stacks(names, &[]).gaps(layers).iter().map(|gap| gap.number).collect::<Vec<_>>()
        };
        let without = |n: usize| -> Vec<String> {
            layers(6, &[]).into_iter().filter(|name| !name.starts_with(&format!("model.layers.{n}."))).collect()
        };
        assert_eq!(gaps(&layers(6, &[]), Some(6)), [0; 0]);
        assert_eq!(
            (gaps(&without(3), None), gaps(&without(5), None), gaps(&without(5), Some(6))),
            (vec![3], vec![], vec![5])
        );
        assert_eq!(gaps(&["0", "2", "4"].map(|n| format!("net.{n}.weight")), None), [0; 0]);
        // Numbers that no model has are not counted one by one.
        let far =
            ["0", "1", "2", "999999999"].iter().flat_map(|n| LAYER.map(|rest| format!("model.layers.{n}.{rest}")));
        assert_eq!(gaps(&far.collect::<Vec<_>>(), Some(usize::MAX)), [0; 0]);
    }

    #[test]
    fn one_shape_out_of_line_is_told_and_a_layer_of_another_width_is_not() {
        let names = layers(4, &[]);
        let odd = |odd: &[&str]| -> Vec<String> {
            let unit = |name: &'_ String| (name.clone(), if odd.contains(&name.as_str()) { [8, 2] } else { [4, 4] });
            let shapes: Vec<(String, [usize; 2])> = names.iter().map(unit).collect();
            let units: Vec<Unit> = shapes.iter().map(|(name, shape)| Unit { name, shape }).collect();
            Stacks::of(&units, &[]).odd_shapes().iter().map(|odd| odd.unit.name.to_owned()).collect()
        };
        let up = "model.layers.1.mlp.up_proj.weight";
        assert_eq!(odd(&[up]), [up]);
        assert_eq!(odd(&[up, "model.layers.1.attn.q.weight"]), [""; 0]);
        assert_eq!(odd(&[up, "model.layers.3.mlp.up_proj.weight"]), [""; 0]);
    }
}
