//! Norms of which no config tells what they multiply by: nothing comes through one whose weight is all zero, unless it
//! multiplies by 1 + w, and then others are likely to be near zero too.

use super::Job;
use crate::integrity::lint::check::Check;
use crate::integrity::lint::observation::{Found, Location};
use crate::integrity::lint::tensors::role;
use std::collections::BTreeMap;

/// The weight of a norm, by its name.
pub struct Norm {
    name: String,
    location: Location,
    elements: usize,
    is_zero: bool,
}

impl Norm {
    /// None where it is no norm's.
    pub fn of(job: &Job) -> Option<Norm> {
        let tensor = job.tensor;
        let &[elements @ 2..=usize::MAX] = tensor.shape.as_slice() else { return None };
        let module = tensor.name.strip_suffix(".weight")?.rsplit('.').next()?.to_ascii_lowercase();
        let is_zero = !job.seen().any;
        (module.contains("norm") || module.starts_with("ln")).then(|| Norm {
            name: tensor.name.clone(),
            location: job.shard.file.location(),
            elements,
            is_zero,
        })
    }
}

/// Tells of norms of zeros whose peers are none.
pub fn compare(norms: &[Norm], is_compared: &dyn Fn(&str) -> bool, found: &mut Found) {
    let mut roles: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for norm in norms {
        roles.entry(role(&norm.name)).or_default()[usize::from(norm.is_zero)] += 1;
    }
    let zeros = norms.iter().filter(|norm| norm.is_zero).count();
    for norm in norms.iter().filter(|norm| norm.is_zero && !is_compared(&norm.name)) {
        let [others, alike] = roles.get(&role(&norm.name)).copied().unwrap_or_default();
        let is_odd = if others + alike > 1 { others >= alike } else { zeros == 1 && norms.len() > 2 };
        if is_odd {
            let message = format!("all of [{}] is zero, those of other norms are not", norm.elements);
            found.say(Check::ZeroTensor, norm.location.clone().tensor(&norm.name), message);
        }
    }
}
