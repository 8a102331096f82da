//! Random sets of neurons, to hold a critical set against.

use crate::compute::Model;
use crate::error::{Error, Result};
use crate::locate::SearchSettings;
use crate::neuron::Neuron;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// Streams of the seed from here on are not those of noisy samples.
const FIRST_STREAM: u64 = 1 << 63;

/// `count` sets of as many channels as `like` has, drawn from all channels that were ranked but those of `like`, each
/// equally likely. The same seed draws the same sets.
///
/// # Errors
/// There are too few channels.
pub fn sets(model: &Model, settings: &SearchSettings, like: &[Neuron], count: usize) -> Result<Vec<Vec<Neuron>>> {
    let sites = settings.ranked_sites(model)?;
    let channels: usize = sites.iter().map(|site| site.channels).sum();
    if channels < 2 * like.len() {
        let problem = format!("{channels} channels are too few to draw {} others from", like.len());
        return Err(Error::input(problem));
    }
    let nth = |mut at: usize| {
        for site in &sites {
            if at < site.channels {
                return Some(Neuron { site: site.site.clone(), channel: at });
            }
            at -= site.channels;
        }
        None
    };
    let draw = |set: usize| {
        let mut rng = ChaCha20Rng::seed_from_u64(settings.seed);
        rng.set_stream(FIRST_STREAM + set as u64);
        let mut drawn: Vec<Neuron> = Vec::with_capacity(like.len());
        while drawn.len() < like.len() {
            let neuron = nth(rng.random_range(0..channels));
            drawn.extend(neuron.filter(|n| !like.contains(n) && !drawn.contains(n)));
        }
        drawn
    };
    Ok((0..count).map(draw).collect())
}
