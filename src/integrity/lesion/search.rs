//! The strongest deviations of a checkpoint, one for each lesion.

use super::REPORTED_P_VALUE;
use super::expect::{Deviations, Series};
use super::p_value::{Tails, in_any};
use super::site::{Kind, SITES, Site, Space};
use crate::neuron::Side;

/// Layers around a deviation in which the same channel is not judged again before it is forgotten.
const REACH: usize = 4;

/// All that is judged.
pub(super) struct Tests {
    /// By layer and [`Site::index`].
    pub norms: Vec<[Option<Deviations>; SITES.len()]>,
    /// Of each layer; none where it was not judged.
    pub cosines: Vec<Option<Deviations>>,
}

/// A channel that stands out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suspect {
    pub layer: usize,
    pub channel: usize,
    /// The site and whether the norm is large; none where it is the cosine.
    pub norm: Option<(Site, bool)>,
    pub strength: f64,
    pub p_value: f64,
}

impl Suspect {
    pub fn site(&self) -> Site {
        self.norm.map_or(Site { kind: Kind::Down, side: Side::Out }, |(site, _)| site)
    }

    /// Whether one of the two may stand out only because the other does.
    fn may_follow(&self, other: &Suspect) -> bool {
        let (a, b) = (self.site().space(), other.site().space());
        let near = self.layer.abs_diff(other.layer);
        let same = self.channel == other.channel;
        a == b
            && match a {
                Space::Residual => same && near <= REACH,
                Space::Intermediate => same && near == 0,
                Space::Heads => near == 0,
            }
    }
}

impl Tests {
    /// Layer and site of the norms that are judged.
    pub fn sides(&self) -> impl Iterator<Item = (usize, Site)> {
        let of_layer = |(layer, of): (usize, &[Option<Deviations>; SITES.len()])| {
            SITES.map(|site| of[site.index()].as_ref().map(|_| (layer, site)))
        };
        self.norms.iter().enumerate().flat_map(of_layer).flatten()
    }

    /// The deviations that a suspect belongs to.
    pub fn of(&self, suspect: &Suspect) -> Option<&Deviations> {
        match suspect.norm {
            Some((site, _)) => self.norms.get(suspect.layer)?[site.index()].as_ref(),
            None => self.cosines.get(suspect.layer)?.as_ref(),
        }
    }

    /// What stands out so far that its chance is at most [`REPORTED_P_VALUE`], the least likely first, without what may
    /// only follow from a less likely one.
    pub fn strongest(&self, tails: &Tails) -> Vec<Suspect> {
        let count = 2 * self.sides().count() + self.cosines.iter().flatten().count();
        let mut suspects = Vec::new();
        let mut add = |layer: usize, norm: Option<(Site, bool)>, of: &Deviations| {
            let large = norm.is_none_or(|(_, large)| large);
            let tail = norm.map_or(tails.cosines, |(site, large)| tails.of_norms(site, large));
            for channel in 0..of.deviation.len() {
                let strength = of.strength(channel, large);
                let p_value = in_any(tail.p_value(strength), count);
                if p_value <= REPORTED_P_VALUE {
                    suspects.push(Suspect { layer, channel, norm, strength, p_value });
                }
            }
        };
        for (layer, site) in self.sides() {
            if let Some(of) = &self.norms[layer][site.index()] {
                add(layer, Some((site, true)), of);
                add(layer, Some((site, false)), of);
            }
        }
        for (layer, of) in self.cosines.iter().enumerate() {
            if let Some(of) = of {
                add(layer, None, of);
            }
        }
        suspects.sort_by(|a, b| a.p_value.total_cmp(&b.p_value).then(b.strength.total_cmp(&a.strength)));
        let mut kept: Vec<Suspect> = Vec::new();
        for suspect in suspects {
            if !kept.iter().any(|k| suspect.may_follow(k)) {
                kept.push(suspect);
            }
        }
        kept
    }
}

impl Series {
    /// Puts what was expected in place of a suspect's value.
    pub fn forget(&mut self, suspect: &Suspect, tests: &Tests) {
        let expected = tests.of(suspect).and_then(|of| of.predicted.get(suspect.channel)).copied();
        let values = match suspect.norm {
            Some((site, _)) => self.norms[suspect.layer][site.index()].as_mut(),
            None => self.cosines[suspect.layer].as_mut(),
        };
        if let (Some(expected), Some(values)) = (expected, values) {
            values[suspect.channel] = expected;
        }
    }
}
