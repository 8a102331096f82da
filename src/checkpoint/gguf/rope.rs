//! RoPE scaling: from a GGUF's metadata and `rope_freqs.weight` back to config.json's `rope_scaling`.

use super::Checked;
use super::architecture::{Architecture, Form};
use super::file::GgufFile;
use super::sizes::Sizes;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::f64::consts::TAU;

/// Divisors of the inverse frequencies, one for each pair of a head's dimensions, that llama.cpp computes from
/// `rope_scaling` of type llama3.
pub(super) const FACTORS: &str = "rope_freqs.weight";

/// How far a recovered factor may lie from the stored one; the stored ones were computed in f32.
const TOLERANCE: f64 = 1e-4;

/// Divisors of the inverse frequencies for texts longer than the model was first trained on, and for others.
const LONG_AND_SHORT: [&str; 2] = ["rope_factors_long.weight", "rope_factors_short.weight"];

/// How far a stored factor of the attention may lie from the computed one; it is stored in f32.
const ATTENTION_TOLERANCE: f64 = 1e-6;

/// The tensors of a file that are RoPE's, not the model's.
pub(super) fn tensors(architecture: &Architecture) -> impl Iterator<Item = &'static str> {
    let longrope = if architecture.rope.is_phi { &LONG_AND_SHORT[..] } else { &[] };
    [FACTORS].into_iter().chain(longrope.iter().copied())
}

/// Writes `rope_theta`, `rope_scaling` and what goes with them.
pub(super) fn write(
    file: &GgufFile,
    architecture: &Architecture,
    sizes: &Sizes,
    config: &mut Map<String, Value>,
) -> Result<()> {
    let prefix = architecture.name;
    let base = |name: &str, default: f64| {
        let key = format!("{prefix}.rope.{name}");
        match file.f64_opt(&key)?.unwrap_or(default) {
            theta if theta > 0.0 => Ok(theta),
            theta => Err(file.problem(&key, format!("is {theta}, expected a positive number"))),
        }
    };
    let theta = base("freq_base", architecture.rope.theta)?;
    config.insert("rope_theta".into(), json!(theta));
    let local = base("freq_base_swa", architecture.rope.local_theta.unwrap_or(theta))?;
    if architecture.rope.local_theta.is_some() {
        config.insert("rope_local_base_freq".into(), json!(local));
    } else if local != theta {
        let problem = format!("is {local}, expected {theta} as in all layers of this family");
        return Err(file.problem(&format!("{prefix}.rope.freq_base_swa"), problem));
    }
    if architecture.form == Form::Gemma4 {
        // The factors say how much of a head is turned.
        return Ok(());
    }
    if architecture.rope.is_partial && (sizes.rotated != sizes.head || !architecture.rope.is_phi) {
        config.insert("partial_rotary_factor".into(), json!(sizes.rotated as f64 / sizes.head as f64));
    }
    if architecture.rope.is_phi && LONG_AND_SHORT.iter().any(|name| file.tensor(name).is_some()) {
        return longrope(file, prefix, sizes, config);
    }
    if let Some(scaling) = rope_scaling(file, architecture, theta, sizes.rotated)? {
        config.insert("rope_scaling".into(), scaling);
    }
    Ok(())
}

/// Phi-3's `rope_scaling` with exactly the keys its first config class wants, unless the file holds another attention
/// factor than follows from the two lengths. Without one it is taken to follow, as in the authors' code.
fn longrope(file: &GgufFile, prefix: &str, sizes: &Sizes, config: &mut Map<String, Value>) -> Result<()> {
    let key = |name: &str| format!("{prefix}.rope.scaling.{name}");
    if let Some(other) = file.str_opt(&key("type"))?.filter(|t| !["none", "longrope"].contains(t)) {
        return Err(Error::tensor(file.path(), LONG_AND_SHORT[0], format!("is there beside {other} scaling")));
    }
    if file.tensor(FACTORS).is_some() {
        return Err(Error::tensor(file.path(), FACTORS, "is there beside the factors of longrope"));
    }
    let original = file.size(&key("original_context_length"))?;
    let factors = |name: &str| -> Result<Vec<f64>> {
        let shape = file.tensor(name).map(|info| info.shape.as_slice()).unwrap_or_default();
        if shape != [sizes.rotated / 2] {
            let problem = format!("has shape {shape:?}, expected [{}]", sizes.rotated / 2);
            return Err(Error::tensor(file.path(), name, problem));
        }
        let factors = file.rows(name, 0..sizes.rotated / 2)?;
        match factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
            None => Ok(factors.into_iter().map(f64::from).collect()),
            Some(f) => Err(Error::tensor(file.path(), name, format!("holds {f}, expected numbers above 0"))),
        }
    };
    let [long, short] = LONG_AND_SHORT.map(factors);
    let mut scaling = Map::new();
    scaling.insert("type".into(), "longrope".into());
    scaling.insert("long_factor".into(), json!(long?));
    scaling.insert("short_factor".into(), json!(short?));
    let (factor, original_length) = (sizes.context as f64 / original as f64, original as f64);
    let derived = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_length.ln()).sqrt() };
    let given = file.f64_opt(&key("attn_factor"))?.unwrap_or(derived);
    if (given - derived).abs() > ATTENTION_TOLERANCE * derived {
        scaling.insert("attention_factor".into(), json!(given));
    }
    config.insert("rope_scaling".into(), Value::Object(scaling));
    config.insert("original_max_position_embeddings".into(), original.into());
    Ok(())
}

/// `rope_scaling`, or none where positions are not scaled. `head_size` is how many channels of a head are turned.
fn rope_scaling(file: &GgufFile, architecture: &Architecture, theta: f64, head_size: usize) -> Result<Option<Value>> {
    let key = |name: &str| format!("{}.rope.{name}", architecture.name);
    let scaling = file.str_opt(&key("scaling.type"))?;
    let legacy = file.f64_opt(&key("scale_linear"))?.filter(|factor| *factor != 1.0);
    let scaled = scaling.filter(|s| *s != "none");
    if file.tensor(FACTORS).is_some() {
        if let Some(other) = scaled {
            return Err(Error::tensor(file.path(), FACTORS, format!("is there beside {other} scaling, expected one")));
        }
        let shape = file.tensor(FACTORS).map(|info| info.shape.as_slice());
        if shape != Some(&[head_size / 2]) {
            let problem = format!("has shape {:?}, expected [{}]", shape.unwrap_or_default(), head_size / 2);
            return Err(Error::tensor(file.path(), FACTORS, problem));
        }
        let factors: Vec<f64> = file.rows(FACTORS, 0..head_size / 2)?.into_iter().map(f64::from).collect();
        let context = file.f64_opt(&key("scaling.original_context_length"))?;
        return llama3(&factors, theta, head_size, context).map_err(|p| Error::tensor(file.path(), FACTORS, p));
    }
    let factor = || match file.f64_opt(&key("scaling.factor"))? {
        Some(factor) if factor > 0.0 => Ok(factor),
        _ => Err(file.problem(&key("scaling.factor"), "has to be a positive number")),
    };
    match (scaled, legacy) {
        (None, None) => Ok(None),
        (None, Some(factor)) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
        (Some("linear"), _) => Ok(Some(json!({"rope_type": "linear", "factor": factor()?}))),
        (Some("yarn"), _) => {
            for name in ["scaling.attn_factor", "scaling.yarn_ext_factor", "scaling.yarn_attn_factor"] {
                if let Some(x) = file.f64_opt(&key(name))?.filter(|x| *x != 1.0) {
                    return Err(file.problem(&key(name), format!("is {x}, which is not supported with yarn")));
                }
            }
            let mut map = Map::new();
            map.insert("rope_type".into(), "yarn".into());
            map.insert("factor".into(), json!(factor()?));
            let original = file.size(&key("scaling.original_context_length"))?;
            map.insert("original_max_position_embeddings".into(), original.into());
            let multiplier = "scaling.yarn_log_multiplier";
            match (file.f64_opt(&key(multiplier))?, architecture.rope.log_multiplier) {
                (Some(x), None) if x != 0.0 => {
                    return Err(file.problem(&key(multiplier), format!("is {x}, which is not supported")));
                }
                (Some(x), Some(times)) => {
                    // The other of the two is not in the file: in every model published they are the same.
                    let x = ((x * times) as f32).to_string().parse::<f64>().unwrap_or(x * times);
                    map.extend(["mscale", "mscale_all_dim"].map(|name| (name.to_owned(), json!(x))));
                }
                _ => {}
            }
            for (name, config) in [("scaling.yarn_beta_fast", "beta_fast"), ("scaling.yarn_beta_slow", "beta_slow")] {
                if let Some(x) = file.f64_opt(&key(name))? {
                    map.insert(config.into(), json!(x));
                }
            }
            Ok(Some(Value::Object(map)))
        }
        (Some(other), _) => {
            let problem = format!("is {other}, expected none, linear or yarn; use the model's safetensors");
            Err(file.problem(&key("scaling.type"), problem))
        }
    }
}

/// The llama3 parameters that reproduce `factors`; none where all factors are 1.
///
/// Only the ratios of the three lengths change a factor, so `low_freq_factor` is taken as 1, as every Llama has it.
fn llama3(factors: &[f64], theta: f64, head_size: usize, context: Option<f64>) -> Checked<Option<Value>> {
    if factors.iter().all(|f| *f == 1.0) {
        return Ok(None);
    }
    let unknown = || "holds factors that are not those of llama3 scaling; use the model's safetensors".to_owned();
    let factor = factors.iter().copied().fold(f64::NAN, f64::max);
    if !(factor.is_finite() && factor > 1.0 && factors.iter().all(|f| *f >= 1.0)) {
        return Err(unknown());
    }
    let mut candidates = vec![(4.0, context.unwrap_or(8192.0)), (4.0, 8192.0)];
    candidates.extend(fit(factors, factor, theta, head_size));
    let fits = candidates.into_iter().find(|(high, original)| {
        let computed = llama3_factors(factor, *high, *original, theta, head_size);
        computed.zip(factors).all(|(a, b)| (a - b).abs() <= TOLERANCE * b)
    });
    let (high, original) = fits.ok_or_else(unknown)?;
    Ok(Some(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": original as u64,
    })))
}

/// What `high_freq_factor` and the original context can be, by the factors that lie between 1 and the largest: there
/// 1 / f is linear in the frequency. One such factor gives the context if the other is 4, two give both.
fn fit(factors: &[f64], factor: f64, theta: f64, head_size: usize) -> Vec<(f64, f64)> {
    let between: Vec<(f64, f64)> = frequencies(theta, head_size)
        .zip(factors)
        .filter(|(_, f)| **f > 1.0 && **f < factor)
        .map(|(frequency, f)| (frequency, (1.0 / f - 1.0 / factor) / (1.0 - 1.0 / factor)))
        .collect();
    let (Some((x0, y0)), Some((x1, y1))) = (between.first(), between.last()) else { return Vec::new() };
    let one = (4.0, TAU / x0 * (1.0 + 3.0 * y0));
    let slope = (y1 - y0) / (x1 - x0);
    let high = 1.0 - 1.0 / (y0 - slope * x0);
    let two = (high, slope * TAU * (high - 1.0));
    // What people write: whole contexts, factors of few digits.
    let rounded = [one, two].map(|(high, original)| ((high * 100.0).round() / 100.0, original.round()));
    rounded.into_iter().filter(|(high, original)| *high > 1.0 && (1.0..=4e9).contains(original)).collect()
}

/// As `convert_hf_to_gguf.py` computes them.
fn llama3_factors(factor: f64, high: f64, original: f64, theta: f64, head_size: usize) -> impl Iterator<Item = f64> {
    frequencies(theta, head_size).map(move |frequency| {
        let smooth = (original * frequency / TAU - 1.0) / (high - 1.0);
        1.0 / ((1.0 - smooth.clamp(0.0, 1.0)) / factor + smooth.clamp(0.0, 1.0))
    })
}

fn frequencies(theta: f64, head_size: usize) -> impl Iterator<Item = f64> {
    (0..head_size / 2).map(move |pair| theta.powf(-2.0 * pair as f64 / head_size as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(factor: f64, high: f64, original: f64) -> Option<Value> {
        let factors: Vec<f64> =
            llama3_factors(factor, high, original, 500_000.0, 128).map(|f| f64::from(f as f32)).collect();
        llama3(&factors, 500_000.0, 128, None).unwrap()
    }

    #[test]
    fn llama3_parameters_come_back_from_their_factors() {
        for (factor, high, original) in [(8.0, 4.0, 8192.0), (32.0, 4.0, 8192.0), (16.0, 2.5, 4096.0)] {
            let value = round_trip(factor, high, original).unwrap();
            assert_eq!(value["factor"], factor);
            assert_eq!(value["high_freq_factor"], high);
            assert_eq!(value["original_max_position_embeddings"], original as u64);
        }
    }

    #[test]
    fn factors_of_one_scale_nothing() {
        assert_eq!(llama3(&[1.0; 64], 500_000.0, 128, None), Ok(None));
    }

    #[test]
    fn other_factors_are_refused() {
        let mut factors: Vec<f64> = llama3_factors(8.0, 4.0, 8192.0, 500_000.0, 128).collect();
        factors[40] *= 1.01;
        assert!(llama3(&factors, 500_000.0, 128, None).unwrap_err().contains("not those of llama3"));
        assert!(llama3(&[0.5, 2.0], 500_000.0, 4, None).is_err());
        assert!(llama3(&[f64::NAN, 2.0], 500_000.0, 4, None).is_err());
    }
}
