//! Measures what `integrity::lesion` sees, on clean models given as folders.
//!
//!   cargo run --release --example lesion_rates calibrate MODEL...   the tails, as `lesion/chance.rs` holds them, and
//!                                                                   how many indicators each model has by the others' tails
//!   cargo run --release --example lesion_rates rates N M MODEL...   detection rates: of each model, side and factor with
//!                                                                   N lesions in down_proj at random, and M each among
//!                                                                   its strongest and in other modules
//!
//! `scripts/fetch-clean-models.sh` fetches the models that the figures in README and `chance.rs` come from.

// Its output is the point.
#![allow(clippy::print_stdout)]

use achilles_audit::Result;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::error::Error;
use achilles_audit::integrity::lesion::{IndicatorKind, LesionReport, MEASURED, Statistics, Tail, Tails};
use achilles_audit::neuron::{Neuron, Side};
use achilles_audit::progress::Silent;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BETAS: [f64; 7] = [0.0, 0.3, 0.5, 0.8, 2.0, 5.0, -1.0];
const OTHERS: [&str; 6] =
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj"];
/// The strongest rows or columns of a layer's `down_proj` that the published critical neurons are among.
const STRONGEST: usize = 3;

struct Model {
    checkpoint: Checkpoint,
    statistics: Statistics,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = || Error::input("usage: lesion_rates calibrate MODEL... | lesion_rates rates N M MODEL...");
    match arguments.split_first().ok_or_else(usage)? {
        (job, models) if job == "calibrate" => calibrate(&open(models)?),
        (job, rest) if job == "rates" => {
            let [many, few, models @ ..] = rest else { return Err(usage()) };
            let number = |text: &String| text.parse().map_err(|_| usage());
            rates([number(many)?, number(few)?], &open(models)?)
        }
        _ => Err(usage()),
    }
}

fn open(paths: &[String]) -> Result<Vec<Model>> {
    let open = |path: &String| {
        let checkpoint = Checkpoint::open(path, &Silent)?;
        let statistics = Statistics::measure(&checkpoint, &Silent)?;
        Ok(Model { checkpoint, statistics })
    };
    paths.iter().map(open).collect()
}

fn calibrate(models: &[Model]) -> Result<()> {
    let tails = tails(models.iter())?;
    println!("norms: [");
    for [large, small] in &tails.norms {
        println!(
            "    [tail({:.2}, {:.2}), tail({:.2}, {:.2})],",
            large.tenth, large.exponent, small.tenth, small.exponent
        );
    }
    println!("],\ncosines: tail({:.2}, {:.2}),", tails.cosines.tenth, tails.cosines.exponent);
    for (left_out, model) in models.iter().enumerate() {
        let others = models.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, model)| model);
        let own = model.statistics.report(&tails);
        println!(
            "{}: {} sides of tensors, {} indicators; by the tails of the others:",
            model.checkpoint.name(),
            own.examined_sides,
            own.indicators.len()
        );
        if models.len() > 1 {
            let held_out = model.statistics.report(&self::tails(others)?);
            println!("  {} indicators", held_out.indicators.len());
            held_out.indicators.iter().for_each(|indicator| {
                println!("  {:?} {} p-value {:.3}", indicator.kind, indicator.place, indicator.p_value)
            });
        }
    }
    Ok(())
}

fn tails<'a>(models: impl Iterator<Item = &'a Model>) -> Result<Tails> {
    let few = || Error::input("a tail needs 20 clean tensors of each site: give more models");
    let mut norms = vec![[Vec::new(), Vec::new()]; MEASURED.norms.len()];
    let mut cosines = Vec::new();
    for model in models {
        let (of_norms, of_cosines) = model.statistics.largest_strengths();
        for (all, of_model) in norms.iter_mut().zip(of_norms) {
            all.iter_mut().zip(of_model).for_each(|(all, of_model)| all.extend(of_model));
        }
        cosines.extend(of_cosines);
    }
    let mut tails = Tails { cosines: Tail::of(&cosines).ok_or_else(few)?, ..MEASURED };
    for (to, strengths) in tails.norms.iter_mut().zip(&norms) {
        for (to, strengths) in to.iter_mut().zip(strengths) {
            *to = Tail::of(strengths).ok_or_else(few)?;
        }
    }
    Ok(tails)
}

/// Which neurons are lesioned.
#[derive(Clone, Copy)]
enum Choice {
    /// Any of `down_proj`.
    Down,
    /// One of the strongest of `down_proj`.
    Strong,
    /// Any of another module.
    Other,
}

fn rates([many, few]: [usize; 2], models: &[Model]) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(42);
    for model in models {
        let clean = model.statistics.report(&MEASURED);
        println!(
            "{}: {} sides examined, {} indicators",
            model.checkpoint.name(),
            clean.examined_sides,
            clean.indicators.len()
        );
    }
    let choices = [
        ("down_proj", Choice::Down, many),
        ("down_proj, strongest", Choice::Strong, few),
        ("other modules", Choice::Other, few),
    ];
    println!("| lesion | in each cell | β = {} | another named |", BETAS.map(|b| b.to_string()).join(" | "));
    println!("|---|{}", "---|".repeat(BETAS.len() + 2));
    for (name, choice, count) in choices {
        for side in [Side::Out, Side::In] {
            let mut cells = Vec::new();
            let mut beside = 0;
            for beta in BETAS {
                let mut detected = 0;
                for model in models {
                    for _ in 0..count {
                        let neuron = choose(model, choice, side, &mut random)?;
                        let tensors = model.checkpoint.tensors();
                        let report = model.statistics.with_lesion(tensors, &neuron, beta)?.report(&MEASURED);
                        detected += usize::from(names(&report, &neuron, beta));
                        beside += usize::from(report.indicators.iter().any(|indicator| !is(indicator, &neuron)));
                    }
                }
                cells.push(format!("{:.0} %", 100.0 * detected as f64 / (count * models.len()) as f64));
            }
            println!("| {name}, {side} | {} | {} | {beside} |", count * models.len(), cells.join(" | "));
        }
    }
    Ok(())
}

fn is(indicator: &achilles_audit::integrity::lesion::Indicator, neuron: &Neuron) -> bool {
    indicator.neuron == *neuron || indicator.or.as_ref() == Some(neuron)
}

/// Whether the lesion is found, at the right neuron and in the right direction.
fn names(report: &LesionReport, neuron: &Neuron, beta: f64) -> bool {
    report.indicators.iter().filter(|indicator| is(indicator, neuron)).any(|indicator| match indicator.kind {
        IndicatorKind::Zero => beta == 0.0,
        IndicatorKind::Opposite => beta < 0.0,
        IndicatorKind::Scaled => (indicator.beta_estimate > 1.0) == (beta > 1.0) && beta > 0.0,
    })
}

fn choose(model: &Model, choice: Choice, side: Side, random: &mut ChaCha8Rng) -> Result<Neuron> {
    let tensors = model.checkpoint.tensors();
    let layers = (0..).take_while(|l| tensors.get(&format!("model.layers.{l}.mlp.down_proj.weight")).is_some()).count();
    let layer = random.random_range(0..layers);
    let module = match choice {
        Choice::Down | Choice::Strong => "mlp.down_proj",
        Choice::Other => OTHERS[random.random_range(0..OTHERS.len())],
    };
    let path = format!("model.layers.{layer}.{module}");
    let shape = tensors.get(&format!("{path}.weight")).map(|entry| entry.shape.clone()).unwrap_or_default();
    let channels = shape.get(usize::from(side == Side::In)).copied().unwrap_or(1);
    let channel = match choice {
        Choice::Strong => {
            let norms = model.statistics.log_norms(layer, module, side).unwrap_or_default();
            let mut order: Vec<usize> = (0..norms.len()).collect();
            order.sort_by(|a, b| norms[*b].total_cmp(&norms[*a]));
            order[random.random_range(0..STRONGEST)]
        }
        _ => random.random_range(0..channels),
    };
    format!("{path}:{side}:{channel}").parse()
}
