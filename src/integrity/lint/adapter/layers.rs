//! The layers of an adapter against each other, where it is said to change all of them alike.

use super::modules::{Modules, path};
use crate::integrity::lint::check::Check;
use crate::integrity::lint::observation::Found;
use crate::integrity::lint::peers::stacks::numbers;
use crate::integrity::lint::stored::at;
use crate::integrity::lint::tensors::role;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Of so many layers one may lack a module, and be odd. Of layers of two sorts one has more than that.
const FEWEST: usize = 5;

/// Tells of layers in the middle that nothing changes, and of modules that few layers lack.
pub(super) fn compare(modules: &Modules, found: &mut Found) {
    // By what stands before the layers' numbers, then by the module in a layer.
    let mut stacks: BTreeMap<&str, BTreeMap<String, BTreeMap<usize, &str>>> = BTreeMap::new();
    for module in modules.changed.keys() {
        if let Some((prefix, layer, rest)) = numbers(module).next() {
            stacks.entry(prefix).or_default().entry(role(rest)).or_default().insert(layer, module);
        }
    }
    for (prefix, roles) in stacks {
        let there: BTreeSet<usize> = roles.values().flat_map(|layers| layers.keys()).copied().collect();
        let (Some(first), Some(last)) = (there.first(), there.last()) else { continue };
        let gaps = || (*first..*last).filter(|layer| !there.contains(layer));
        let is_few = |count: usize| count > 0 && 2 * count < there.len();
        if let (true, Some(gap)) = (last - first < 2 * there.len() && is_few(gaps().count()), gaps().next()) {
            let name = format!("{prefix}{gap}");
            tell(modules, &roles, &name, (gaps().count(), there.len()), found);
        }
        for (role, layers) in &roles {
            let lacking: Vec<usize> = there.iter().filter(|layer| !layers.contains_key(*layer)).copied().collect();
            if let Some(layer) = lacking.first().filter(|_| lacking.len() * FEWEST <= there.len()) {
                tell(modules, &roles, &format!("{prefix}{layer}.{role}"), (lacking.len(), layers.len()), found);
            }
        }
    }
}

/// Tells of what `lacking` layers lack, the first of which is `name`, and `others` have.
fn tell(
    modules: &Modules,
    roles: &BTreeMap<String, BTreeMap<usize, &str>>,
    name: &str,
    (lacking, others): (usize, usize),
    found: &mut Found,
) {
    let beside =
        roles.values().flat_map(|layers| layers.values()).find_map(|module| modules.changed.get(*module)?.first());
    let Some((_, (shard, tensor))) = beside else { return };
    let first = if lacking == 1 { String::new() } else { format!(", it is the first of {lacking}") };
    let message = format!("nothing changes it{first}; in {others} other layers it is changed");
    let evidence = json!({"missing": path(name), "count": lacking, "peers_count": others});
    found.add(Check::PeerMissing, at(shard, tensor).tensor(name), message, evidence);
}
