//! What locating will take, before anything is computed: memory, passes over the weights, rows, seconds.

use super::adaptive::Adaptive;
use super::evaluator::Evaluator;
use super::minimize::minimize;
use super::search::{members, search};
use super::smallest::Further;
use super::{Counting, Entry, OpenedSubject, Ranking, Samples, SearchSettings, SiteSelection, stage};
use crate::compute::{Arithmetic, ComputeSettings, Footprint, Residency, Sample, Trunk, Work, speed};
use crate::document::{Document, Kind, ModelIdentity};
use crate::error::{Bytes, Error, Result};
use crate::neuron::{Neuron, Side};
use crate::progress::Silent;
use costs::{Costs, GRADIENT_ROWS};
use serde::Serialize;
use std::cell::{Cell, RefCell};

/// Entries of the longest prefix that is counted step by step.
const MOST_COUNTED: usize = 300;

/// What locating will take (`achilles-audit/estimate/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Of the memory that it computes in: the host's, or a CUDA device's.
    pub memory: MemoryNeeds,
    /// What this machine does.
    pub machine: Machine,
    /// What a pass costs.
    pub pass: Pass,
    /// Loading, then the three stages.
    pub stages: Vec<StageNeeds>,
    /// All of them together.
    pub seconds: Span<f64>,
}

/// What it will take of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryNeeds {
    /// Bytes that can be had.
    pub available_bytes: u64,
    /// Bytes of the weights where all of them stay.
    pub resident_bytes: u64,
    /// Bytes of the weights at hand at once where they are read anew in each pass.
    pub streamed_bytes: u64,
    /// `resident` or `stream`: how it will be.
    pub weights: &'static str,
    /// Why memory will not suffice; none where it will.
    pub problem: Option<String>,
}

/// What this machine does in a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Machine {
    /// Floating-point operations of rows through the model's layers and head; of a matrix product where a layer of each
    /// kind takes more memory than a measurement may.
    pub flops: f64,
    /// Bytes of the model's own files, read and decoded.
    pub read_bytes: f64,
}

/// What a pass costs. A row is the text once, under one sample of noise or one set of masked neurons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pass {
    /// Bytes of the files that it reads where weights are streamed, and loading otherwise.
    pub bytes: u64,
    /// Floating-point operations of a row through all layers and the head, where importance does not go.
    pub row_flops: u64,
    /// Rows that are computed together at most.
    pub chunk_rows: usize,
    /// Rows that it has room for.
    pub most_rows: usize,
    /// Rows that take as long to compute as the weights to read: with so many the search begins.
    pub first_rows: usize,
}

/// What a stage takes, at least and at most: the search ends at the first prefix or at the longest, the minimization has
/// nothing to do or as much as where damage grows with the set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageNeeds {
    /// `load`, `importance`, `search` or `minimize`.
    pub stage: &'static str,
    /// Passes over the weights.
    pub passes: Span<usize>,
    /// Rows that are computed.
    pub rows: Span<usize>,
    /// What they take on a machine that does nothing else.
    pub seconds: Span<f64>,
}

/// At least, and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span<T> {
    /// At least.
    pub least: T,
    /// At most.
    pub most: T,
}

/// What an estimate depends on besides model and machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EstimateSettings {
    /// What candidates are ranked by.
    pub ranking: Ranking,
    /// Which side of modules they are on.
    pub side: Side,
    /// The modules whose channels are ranked.
    pub sites: SiteSelection,
    /// What prefixes count.
    pub counting: Counting,
    /// How many noisy samples are asked for.
    pub samples: Samples,
    /// The longest prefix tried.
    pub max_neurons: usize,
    /// Rows at most to look with for a smaller set; none where that is not asked for.
    pub smallest: Option<usize>,
    /// The precision of the arithmetic.
    pub dtype: Arithmetic,
    /// Where it computes, as it was asked for: `auto`, `cpu`, `cuda:0` or `metal`.
    pub device: String,
    /// Whether weights stay, as it was asked for; null where memory decides.
    pub weights: Option<&'static str>,
    /// Bytes of memory that may be taken; null where that is not set.
    pub memory_bytes: Option<u64>,
    /// Bytes of a CUDA device's memory that may be taken; null where that is not set.
    pub gpu_memory_bytes: Option<u64>,
    /// Tokens of the text.
    pub tokens: usize,
}

impl Kind for Estimate {
    const SCHEMA: &'static str = "achilles-audit/estimate/v1";
    type Model = ModelIdentity;
    type Settings = EstimateSettings;
}

/// What the stage is called that ranks.
const IMPORTANCE: &str = "importance";

/// What a stage needs of passes and rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Need {
    passes: usize,
    rows: usize,
}

impl OpenedSubject {
    /// Tells what locating will take. Measures the machine for a second or so.
    ///
    /// # Errors
    /// A setting makes no sense, no site matches, or the model cannot be read.
    pub fn estimate(self, settings: &SearchSettings, compute: &ComputeSettings) -> Result<Document<Estimate>> {
        settings.check()?;
        let problem = match self.check_memory(settings, compute) {
            Ok(()) => None,
            Err(error @ Error::Memory { .. }) => Some(error.to_string()),
            Err(error) => return Err(error),
        };
        let OpenedSubject { checkpoint, recipe, text, seconds: opening_s } = self;
        let recipe = &recipe;
        let positions = text.ids.len();
        let footprint = Footprint::of(recipe, compute)?;
        let (layers, head) = Work::of(recipe, checkpoint.tensors(), positions);
        let (bytes, row_flops) = (layers.bytes + head.bytes, layers.row_flops + head.row_flops);
        let chunk_rows = footprint.chunk_rows(recipe, positions);
        let most_rows = footprint.rows_at_once(recipe, positions);
        let identity = ModelIdentity::of(&checkpoint, recipe.architecture).or_no_hub();

        let sites = recipe.sites()?;
        let chosen = settings.ranking.ranked(settings.sites.of(recipe, &sites, settings.side)?)?;
        let sums = stage::sums_bytes(&chosen, positions);
        let keeps = sums <= footprint.left() / 2;
        let is_streamed = footprint.residency == Residency::Streamed;
        let read_bytes = speed::read_bytes(&checkpoint, recipe, compute)?;
        let costs = match Sample::of(checkpoint, recipe, &text.ids, compute)? {
            Some(sample) => {
                let stage = stage::Stage {
                    model: sample.model(),
                    tokens: sample.tokens(),
                    sites: &chosen,
                    settings,
                    keep: settings.max_neurons,
                    trunk: &RefCell::new(Trunk::of(sample.tokens().clone())),
                    progress: &Silent,
                };
                Costs::measure(&sample, stage, chunk_rows, keeps)?
            }
            None => {
                let flops = speed::flops(recipe, compute, chunk_rows.saturating_mul(positions))?;
                Costs::of_products(flops, layers.row_flops, head.row_flops)
            }
        };
        let reading_s = |bytes: u64| bytes as f64 / read_bytes;
        let paid = (reading_s(layers.bytes) / costs.layers.row_s) as usize;
        let paid = if is_streamed { paid.clamp(1, most_rows) } else { 1 };
        let pass = Pass { bytes, row_flops, chunk_rows, most_rows, first_rows: paid };

        let channels = chosen.iter().map(|site| site.channels).sum::<usize>();
        let longest = settings.max_neurons.min(match settings.counting {
            Counting::Channels => channels,
            Counting::Published => channels.saturating_mul(positions),
        });
        let searched = counted(longest, |longest| searched(longest, settings, paid, most_rows))?;
        let minimized = counted(longest, |longest| minimized(longest, settings, paid, most_rows))?;
        // Importance asks for no logits, and by most rankings leaves the search the clean row's way through the layers.
        let reads_text = settings.ranking.reads_text();
        let known = usize::from(reads_text && settings.ranking != Ranking::Gradient);
        let needs = [
            (IMPORTANCE, importance(settings, most_rows, keeps), costs.importance, (0, 0.0), layers.bytes),
            ("search", searched, costs.layers, (known, costs.head_s), bytes),
            ("minimize", minimized, costs.layers, (0, costs.head_s), bytes),
        ];
        let load = opening_s + if is_streamed { 0.0 } else { reading_s(bytes) };
        let load_passes = usize::from(!is_streamed);
        let mut stages = vec![StageNeeds {
            stage: "load",
            passes: Span { least: load_passes, most: load_passes },
            rows: Span { least: 0, most: 0 },
            seconds: Span { least: load, most: load },
        }];
        stages.extend(needs.map(|(stage, Span { least, most }, cost, (known, head_s), bytes)| {
            let seconds = |need: &Need| {
                // Weights that are ranked by themselves are read from the files, wherever the model's are.
                let reads = is_streamed || (stage == IMPORTANCE && !reads_text);
                let reading = if reads { need.passes as f64 * reading_s(bytes) } else { 0.0 };
                let through_layers = cost.of(need.passes, need.rows.saturating_sub(known));
                reading.max(through_layers + need.rows as f64 * head_s)
            };
            StageNeeds {
                stage,
                passes: Span { least: least.passes, most: most.passes },
                rows: Span { least: least.rows, most: most.rows },
                seconds: Span { least: seconds(&least), most: seconds(&most) },
            }
        }));
        let total = |of: fn(&Span<f64>) -> f64| stages.iter().map(|stage| of(&stage.seconds)).sum();
        let result = Estimate {
            memory: MemoryNeeds {
                available_bytes: footprint.available,
                resident_bytes: footprint.resident,
                streamed_bytes: footprint.streamed,
                weights: footprint.residency.as_str(),
                problem,
            },
            machine: Machine { flops: row_flops as f64 / (costs.layers.row_s + costs.head_s), read_bytes },
            pass,
            seconds: Span { least: total(|span| span.least), most: total(|span| span.most) },
            stages,
        };
        let settings = EstimateSettings {
            ranking: settings.ranking,
            side: settings.side,
            sites: settings.sites.clone(),
            counting: settings.counting,
            samples: settings.samples,
            max_neurons: settings.max_neurons,
            smallest: settings.smallest,
            dtype: compute.arithmetic,
            device: compute.device.to_string(),
            weights: compute.residency.map(Residency::as_str),
            memory_bytes: compute.memory.map(|Bytes(bytes)| bytes),
            gpu_memory_bytes: compute.gpu_memory.map(|Bytes(bytes)| bytes),
            tokens: positions,
        };
        Ok(Document::new(identity, settings, result))
    }

    /// Refuses to begin what memory will not suffice for.
    ///
    /// # Errors
    /// It will not, or no site matches.
    pub fn check_memory(&self, settings: &SearchSettings, compute: &ComputeSettings) -> Result<()> {
        let OpenedSubject { recipe, text, .. } = self;
        let positions = text.ids.len();
        let footprint = Footprint::of(recipe, compute)?;
        footprint.check()?;
        let sites = recipe.sites()?;
        let sites = settings.ranking.ranked(settings.sites.of(recipe, &sites, settings.side)?)?;
        if settings.ranking.reads_text() {
            footprint.check_left(stage::WIDEST, stage::widest_bytes(&sites, recipe.layers.len(), positions))?;
        }
        let (first, most) = match (settings.ranking, settings.samples) {
            (Ranking::Noise, Samples::Exactly(samples)) => (2, samples + 1),
            (Ranking::Noise, Samples::Auto) => (Adaptive::FIRST + 1, Samples::Auto.most() + 1),
            _ => (1, 1),
        };
        footprint.check_rows(recipe, first, positions)?;
        if settings.ranking == Ranking::Gradient {
            footprint.check_gradients(recipe, positions)?;
        }
        match most <= footprint.rows_at_once(recipe, positions) {
            true => Ok(()),
            false => footprint.check_left(&stage::sums_of(most), stage::sums_bytes(&sites, positions)),
        }
    }
}

/// `keeps`: whether sums stay from look to look.
fn importance(settings: &SearchSettings, most_rows: usize, keeps: bool) -> Span<Need> {
    let passes = |rows: &[usize]| Need {
        passes: rows.iter().map(|rows| rows.div_ceil(most_rows)).sum(),
        rows: rows.iter().sum(),
    };
    let exactly = |need| Span { least: need, most: need };
    match (settings.ranking, settings.samples) {
        (Ranking::Magnitude | Ranking::MagnitudeSigned | Ranking::SuperWeight, _) => exactly(passes(&[1])),
        (Ranking::Random, _) => exactly(Need::default()),
        (Ranking::Weights, _) => exactly(Need { passes: 1, rows: 0 }),
        // Forwards, once more, and back, which takes as many operations as forwards.
        (Ranking::Gradient, _) => exactly(Need { passes: 2, rows: GRADIENT_ROWS }),
        (Ranking::Noise, Samples::Exactly(samples)) => exactly(passes(&[samples + 1])),
        (Ranking::Noise, Samples::Auto) => {
            let looks = Adaptive::rows_of_looks(keeps);
            Span { least: passes(&looks[..1]), most: passes(&looks) }
        }
    }
}

/// The search itself, over damage that is made up, and counted.
struct Counted<'a> {
    evaluator: Evaluator<'a>,
    need: &'a Cell<Need>,
}

impl<'a> Counted<'a> {
    /// The model collapses where all of `needed` are masked.
    fn new(needed: Vec<usize>, paid: usize, most_rows: usize, need: &'a Cell<Need>) -> Counted<'a> {
        let nll = move |set: &Vec<Neuron>| {
            let masked = |wanted: &usize| set.iter().any(|neuron| neuron.channel == *wanted);
            // Damage grows a little with each, so that steps have an order.
            let found = needed.iter().filter(|wanted| masked(wanted)).count();
            if found == needed.len() && found > 0 { 100.0 } else { set.len() as f64 * 1e-6 }
        };
        let evaluator = Evaluator::measuring(move |_, sets| {
            let Need { passes, rows } = need.get();
            need.set(Need { passes: passes + sets.len().div_ceil(most_rows), rows: rows + sets.len() });
            Ok(sets.iter().map(&nll).collect())
        });
        Counted { evaluator: evaluator.paying(move || paid), need }
    }

    /// What it has taken since it was last asked.
    fn taken(&self) -> Need {
        self.need.take()
    }
}

/// Made-up entries of a ranking.
fn entries(count: usize) -> Result<Vec<Entry>> {
    let site = crate::neuron::Site { module: "model.norm".parse()?, side: Side::Out };
    let entry = |channel| Entry { neuron: Neuron { site: site.clone(), channel }, importance: 0.0, position: None };
    Ok((0..count).map(entry).collect())
}

/// Settings under which made-up damage collapses by itself alone.
fn made_up(longest: usize, settings: &SearchSettings) -> SearchSettings {
    SearchSettings { epsilon: 1.0, max_neurons: longest, ..settings.clone() }
}

/// What prefixes of up to `longest` take: counted by `count` for a length that takes no time worth telling; beyond it
/// rows grow as the prefix does.
fn counted(longest: usize, count: impl Fn(usize) -> Result<Span<Need>>) -> Result<Span<Need>> {
    let Span { least, most } = count(longest.min(MOST_COUNTED))?;
    let grown =
        |of: usize| (of as u64 * longest.max(1) as u64).div_ceil(longest.clamp(1, MOST_COUNTED) as u64) as usize;
    Ok(Span { least, most: Need { passes: grown(most.passes), rows: grown(most.rows) } })
}

fn searched(longest: usize, settings: &SearchSettings, paid: usize, most_rows: usize) -> Result<Span<Need>> {
    let entries = entries(longest)?;
    let take = |needed: Vec<usize>| {
        let need = Cell::default();
        let mut counted = Counted::new(needed, paid, most_rows, &need);
        search(&mut counted.evaluator, &entries, &made_up(longest, settings), &String::new)?;
        Ok::<_, Error>(counted.taken())
    };
    Ok(Span { least: take(vec![0])?, most: take(vec![])? })
}

/// Of the longest prefix, of which few or many are needed, evenly spread.
fn minimized(longest: usize, settings: &SearchSettings, paid: usize, most_rows: usize) -> Result<Span<Need>> {
    let entries = entries(longest)?;
    let mut most = Need::default();
    for share in [1, 2, 4, 8, 16, 32, usize::MAX] {
        let count = (longest / share).max(1);
        // The last is needed, or the prefix would be shorter.
        let needed = (1..=count).map(|at| at * longest / count - 1).collect();
        let need = Cell::default();
        let mut counted = Counted::new(needed, paid, most_rows, &need);
        search(&mut counted.evaluator, &entries, &made_up(longest, settings), &String::new)?;
        counted.taken();
        let further = settings.smallest.map(|rows| Further { rows, seed: settings.seed });
        minimize(&mut counted.evaluator, members(&entries, longest), 1.0, further)?;
        let taken = counted.taken();
        most = Need { passes: most.passes.max(taken.passes), rows: most.rows.max(taken.rows) };
    }
    Ok(Span { least: Need::default(), most })
}

mod costs;
#[cfg(test)]
mod tests;
