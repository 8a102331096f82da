//! What a config says of rotary embeddings: `rope_theta` and `rope_scaling` in transformers 4's spelling,
//! `rope_parameters` in transformers 5's, or some of both.
//!
//! Where both are there, or a key stands inside and outside of them, and they do not agree, versions of transformers
//! and other loaders compute different things from one config: that is refused, with the readings named.

use super::known_keys;
use super::rope::{Rope, RopeSettings, Scaling};
use crate::checkpoint::config::Reader;
use crate::error::{Error, Result};

/// What a family's config class assumes where a key is absent, and knows of rotary embeddings.
#[derive(Debug, Clone, Copy)]
pub(super) struct RopeClass {
    /// θ.
    pub theta: f64,
    /// `max_position_embeddings`.
    pub positions: usize,
    /// The share of each head's channels that is rotated; none where that is all of them, whatever the config says.
    pub partial: Option<f64>,
    /// The config may say how positions in images divide the channels; those in text are the same in all divisions.
    pub is_of_images: bool,
    /// Phi-3's: of scalings there is longrope only, by several names, and its
    /// original length is a key of the class, outside of the others.
    pub is_phi: bool,
    /// Keys of the object that the family reads itself.
    pub known: &'static [&'static str],
}

const SCALING: &str = "rope_scaling";
const PARAMETERS: &str = "rope_parameters";
const THETA: &str = "rope_theta";
const PARTIAL: &str = "partial_rotary_factor";
const ORIGINAL: &str = "original_max_position_embeddings";
/// Phi-3's original length where its config names none.
const PHI_ORIGINAL: f64 = 4096.0;
const KINDS_OF_SCALING: &str = "default, linear, dynamic, yarn, llama3 or longrope";
/// Kinds of layers, as nested `rope_parameters` name them.
const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// The rotary embedding of heads of `head_dim` channels.
///
/// # Errors
/// A scaling that the family does not know, a parameter of it that is missing or not known, or two that contradict
/// each other.
pub(super) fn read(c: &Reader, class: &RopeClass, head_dim: usize) -> Result<Rope> {
    let place = Place { c, class, head_dim, theta: THETA, nested: false };
    // An empty object is none.
    let object = |key| Ok::<_, Error>(c.object_opt(key)?.filter(|r| !r.is_empty()));
    let settings = match (object(SCALING)?, object(PARAMETERS)?) {
        (None, None) => place.unscaled()?,
        (Some(r), None) | (None, Some(r)) => place.scaled(&r)?,
        (Some(old), Some(new)) => place.agreed(place.scaled(&old)?, place.scaled(&new)?)?,
    };
    place.rope(settings)
}

/// The rotary embeddings of a model that has one for its full and one for its sliding layers, in this order: nested
/// `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` for the full ones and `rope_local_base_freq`
/// for the sliding ones (transformers 4).
///
/// # Errors
/// As [`read`].
pub(super) fn read_both(c: &Reader, full: &RopeClass, sliding: &RopeClass, head_dim: usize) -> Result<[Rope; 2]> {
    let new = c.object_opt(PARAMETERS)?.filter(|r| !r.is_empty());
    let old = c.object_opt(SCALING)?.filter(|r| !r.is_empty());
    let place = |class, theta| Place { c, class, head_dim, theta, nested: true };
    let (full, sliding) = (place(full, THETA), place(sliding, "rope_local_base_freq"));
    let of_kind = |place: &Place, kind: &str| match new.as_ref().map(|new| new.object_opt(kind)).transpose()?.flatten()
    {
        Some(r) => place.scaled(&r),
        None => place.unscaled(),
    };
    let nested = [of_kind(&full, KINDS[0])?, of_kind(&sliding, KINDS[1])?];
    if let Some(new) = &new
        && let Some((key, _)) = new.unused().first()
    {
        return Err(new.wrong(key, "only full_attention and sliding_attention"));
    }
    let [of_full, of_sliding] = nested;
    let of_full = match old {
        None => of_full,
        Some(old) => {
            if !old.has("rope_type") && old.str_opt("type")?.is_some_and(|kind| kind != "default") {
                let expected = "it to be called rope_type: transformers 5 overlooks `type` here and scales nothing, \
                                transformers 4 obeys it";
                return Err(old.wrong("type", expected));
            }
            let scaled = full.scaled(&old)?;
            if new.is_some() { full.agreed(scaled, of_full)? } else { scaled }
        }
    };
    Ok([full.rope(of_full)?, sliding.rope(of_sliding)?])
}

/// Gemma 4's rotary embeddings, of its full and of its sliding layers: nested `rope_parameters` and nothing else. A full
/// layer's turns a share of its frequencies.
///
/// # Errors
/// As [`read`].
pub(super) fn read_gemma4(c: &Reader, class: [&RopeClass; 2], head_dims: [usize; 2]) -> Result<[Rope; 2]> {
    let given = c.object_opt(PARAMETERS)?.filter(|r| !r.is_empty());
    let of_kind = |at: usize| {
        let place = Place { c, class: class[at], head_dim: head_dims[at], theta: THETA, nested: true };
        let share = if at == 0 { 0.25 } else { 1.0 };
        let kind = if at == 0 { "proportional" } else { "default" };
        let Some(given) = &given else {
            let scaling = if at == 0 { Scaling::Proportional { factor: 1.0 } } else { Scaling::Default };
            return place.rope(RopeSettings { theta: class[at].theta, scaling, partial_rotary_factor: share });
        };
        let missing = || c.wrong(PARAMETERS, "an object each for full_attention and sliding_attention");
        let r = given.object_opt(KINDS[at])?.ok_or_else(missing)?;
        if r.str_opt("rope_type")?.is_some_and(|found| found != kind) {
            return Err(r.wrong("rope_type", kind));
        }
        let theta = place.positive(&r, THETA, r.f64(THETA)?)?;
        let scaling = match at {
            0 => Scaling::Proportional { factor: place.positive(&r, "factor", r.f64_or("factor", 1.0)?)? },
            _ => Scaling::Default,
        };
        let partial_rotary_factor = match at {
            0 => r.f64_or(PARTIAL, 1.0)?,
            _ => r.f64_opt(PARTIAL)?.unwrap_or(1.0),
        };
        if !(0.0..=1.0).contains(&partial_rotary_factor) || (at == 1 && partial_rotary_factor != 1.0) {
            return Err(r.wrong(PARTIAL, if at == 0 { "a share from 0 to 1" } else { "no such key, or 1" }));
        }
        match known_keys::unknown(&r, &[]).first() {
            None => place.rope(RopeSettings { theta, scaling, partial_rotary_factor }),
            Some(key) => Err(r.wrong(key, "no such key for this rope_type")),
        }
    };
    let both = [of_kind(0)?, of_kind(1)?];
    match given.as_ref().and_then(|given| {
        given.unused().first().map(|(key, _)| given.wrong(key, "only full_attention and sliding_attention"))
    }) {
        Some(error) => Err(error),
        None => Ok(both),
    }
}

/// Where a rotary embedding is read: the config around it, and what its class makes of that.
struct Place<'a, 'c> {
    c: &'a Reader<'c>,
    class: &'a RopeClass,
    head_dim: usize,
    /// The key of θ outside of the object of parameters.
    theta: &'static str,
    /// The object is that of a kind of layers.
    nested: bool,
}

impl Place<'_, '_> {
    fn rope(&self, settings: RopeSettings) -> Result<Rope> {
        let rope = Rope::new(settings, self.head_dim);
        if !rope.rotated().is_multiple_of(2) {
            return Err(self.c.wrong("head_dim", "an even number, as rotary embeddings need"));
        }
        if !rope.is_sound() {
            let key = if self.c.has(SCALING) { SCALING } else { PARAMETERS };
            let expected = "as many short_factor and long_factor as there are rotated channel pairs";
            return Err(self.c.wrong(key, expected));
        }
        Ok(rope)
    }

    /// Of a config with neither object.
    fn unscaled(&self) -> Result<RopeSettings> {
        let theta = self.positive(self.c, self.theta, self.c.f64_or(self.theta, self.class.theta)?)?;
        let partial_rotary_factor = match self.class.partial {
            Some(partial) => self.share(self.c, self.c.f64_or(PARTIAL, partial)?)?,
            None => 1.0,
        };
        Ok(RopeSettings { theta, scaling: Scaling::Default, partial_rotary_factor })
    }

    fn max_positions(&self) -> Result<f64> {
        Ok(self.c.size_or("max_position_embeddings", self.class.positions)? as f64)
    }

    fn positive(&self, r: &Reader, key: &str, number: f64) -> Result<f64> {
        if number > 0.0 { Ok(number) } else { Err(r.wrong(key, "a number above 0")) }
    }

    /// A share of each head's channels that is rotated.
    fn share(&self, r: &Reader, factor: f64) -> Result<f64> {
        let channels = (self.head_dim as f64 * factor) as usize;
        if !(factor > 0.0 && factor <= 1.0) || channels == 0 || !channels.is_multiple_of(2) {
            let all = self.head_dim;
            let expected = format!("a factor above 0 and up to 1 that gives an even share of the {all} channels");
            return Err(r.wrong(PARTIAL, &expected));
        }
        Ok(factor)
    }

    /// Of one object of parameters.
    fn scaled(&self, r: &Reader) -> Result<RopeSettings> {
        let theta = self.inside_or_outside(r, THETA, self.theta)?.unwrap_or(self.class.theta);
        let theta = self.positive(r, THETA, theta)?;
        let scaling = self.scaling(r)?;
        let partial_rotary_factor = self.partial(r)?;
        let of_images = if self.class.is_of_images { &["mrope_section", "mrope_interleaved"][..] } else { &[] };
        let known = [&["finetuned"], of_images, self.class.known].concat();
        match known_keys::unknown(r, &known).first() {
            None => Ok(RopeSettings { theta, scaling, partial_rotary_factor }),
            Some(key) => Err(r.wrong(key, "no such key for this rope_type")),
        }
    }

    fn partial(&self, r: &Reader) -> Result<f64> {
        if let Some(partial) = self.class.partial {
            return self.share(r, self.inside_or_outside(r, PARTIAL, PARTIAL)?.unwrap_or(partial));
        }
        match r.f64_opt(PARTIAL)? {
            None | Some(1.0) => Ok(1.0),
            Some(_) => Err(r.wrong(PARTIAL, "no such key, or 1, for this architecture")),
        }
    }

    /// A number that stands in the object, or outside of it; transformers 5 takes the one inside, 4 the one outside.
    fn inside_or_outside(&self, r: &Reader, key: &str, outer_key: &str) -> Result<Option<f64>> {
        let inside = number(r, key)?;
        let outside = if inside.is_some() { self.c.f64_opt(outer_key)? } else { number(self.c, outer_key)? };
        match (inside, outside) {
            (Some(inside), Some(outside)) if inside != outside => {
                let expected = format!(
                    "the same as {outer_key} outside, {outside}: transformers 5 computes with the one inside, \
                     transformers 4 with the one outside; leave one"
                );
                Err(r.wrong(key, &expected))
            }
            (inside, outside) => Ok(inside.or(outside)),
        }
    }

    /// Positions that the model was first trained on. Transformers 5 takes the number outside, but not under kinds of
    /// layers; `assumed_by_4` is what 4 takes where there is none inside.
    fn original(&self, r: &Reader, assumed_by_4: Option<f64>) -> Result<f64> {
        let outside = match number(self.c, ORIGINAL)? {
            None if self.class.is_phi => Some(PHI_ORIGINAL),
            outside => outside,
        };
        let inside = number(r, ORIGINAL)?;
        let max = self.max_positions()?;
        match (inside.or(if self.nested { Some(max) } else { assumed_by_4 }), outside) {
            (Some(inside), Some(outside)) if inside != outside => {
                let (new, old) = if self.nested { (inside, outside) } else { (outside, inside) };
                let expected = format!(
                    "one number inside and outside of it: transformers 5 computes with {new}, transformers 4 or other \
                     loaders with {old}"
                );
                Err(r.wrong(ORIGINAL, &expected))
            }
            (inside, outside) => self.positive(r, ORIGINAL, inside.or(outside).unwrap_or(max)),
        }
    }

    /// The type of scaling: `rope_type`, once called `type`.
    fn kind<'r>(&self, r: &'r Reader) -> Result<&'r str> {
        let alias = |kind| match kind {
            "su" | "yarn" if self.class.is_phi => "longrope",
            "mrope" if self.class.is_of_images => "default",
            other => other,
        };
        let name = |key| match r.str_opt(key)? {
            None if r.has(key) => Err(r.wrong(key, "the name of a type of scaling")),
            name => Ok(name.map(alias)),
        };
        match (name("rope_type")?, name("type")?) {
            (Some(new), Some(old)) if new != old => {
                let expected =
                    format!("{old}, as `type` beside it has it: transformers 5 computes {new}, transformers 4 {old}");
                Err(r.wrong("rope_type", &expected))
            }
            (new, old) => Ok(new.or(old).unwrap_or("default")),
        }
    }

    fn scaling(&self, r: &Reader) -> Result<Scaling> {
        let kind = self.kind(r)?;
        match kind {
            "default" => Ok(Scaling::Default),
            "longrope" => self.longrope(r),
            "linear" if !self.class.is_phi => Ok(Scaling::Linear { factor: r.f64("factor")? }),
            "dynamic" if !self.class.is_phi => {
                let max_position_embeddings = self.max_positions()?;
                Ok(Scaling::Dynamic { factor: r.f64("factor")?, max_position_embeddings })
            }
            "llama3" if !self.class.is_phi => Ok(Scaling::Llama3 {
                factor: r.f64("factor")?,
                low_freq_factor: r.f64("low_freq_factor")?,
                high_freq_factor: r.f64("high_freq_factor")?,
                original_max_position_embeddings: self.original(r, None)?,
            }),
            "yarn" if !self.class.is_phi => self.yarn(r),
            _ => {
                let known = if self.class.is_phi { "default or longrope" } else { KINDS_OF_SCALING };
                Err(r.wrong(if r.has("rope_type") { "rope_type" } else { "type" }, known))
            }
        }
    }

    fn yarn(&self, r: &Reader) -> Result<Scaling> {
        // Transformers 4 does not look outside.
        let original = self.original(r, Some(self.max_positions()?))?;
        let factor = match r.f64_opt("factor")? {
            Some(factor) => factor,
            None if r.has("factor") => self.max_positions()? / original,
            None => return Err(r.wrong("factor", "a number")),
        };
        // As Python's `or`: 0 is none.
        let true_number = |key| Ok::<_, Error>(r.f64_opt(key)?.filter(|n| *n != 0.0));
        let mscale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
        let attention_factor =
            match (r.f64_opt("attention_factor")?, true_number("mscale")?, true_number("mscale_all_dim")?) {
                (Some(given), _, _) => given,
                (None, Some(m), Some(all)) => mscale(m) / mscale(all),
                _ => mscale(1.0),
            };
        Ok(Scaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast: true_number("beta_fast")?.unwrap_or(32.0),
            beta_slow: true_number("beta_slow")?.unwrap_or(1.0),
            truncate: self.truncate(r)?,
            attention_factor,
        })
    }

    fn truncate(&self, r: &Reader) -> Result<bool> {
        // null is false, as Python has it.
        let truncate = !r.has("truncate") || r.bool_or("truncate", false)?;
        if self.nested && !truncate {
            let expected = "true: transformers 5 does not look for it there and truncates, others do not";
            return Err(r.wrong("truncate", expected));
        }
        Ok(truncate)
    }

    fn longrope(&self, r: &Reader) -> Result<Scaling> {
        let factors = |key| r.f64s_opt(key)?.ok_or_else(|| r.wrong(key, "a list of numbers"));
        let original = self.original(r, None)?;
        let factor = match r.f64_opt("factor")? {
            Some(factor) => factor,
            None => self.max_positions()? / original,
        };
        let derived = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
        Ok(Scaling::LongRope {
            short_factor: factors("short_factor")?,
            long_factor: factors("long_factor")?,
            original_max_position_embeddings: original,
            attention_factor: r.f64_opt("attention_factor")?.unwrap_or(derived),
        })
    }

    /// Both, where `rope_scaling` and `rope_parameters` say the same.
    fn agreed(&self, old: RopeSettings, new: RopeSettings) -> Result<RopeSettings> {
        if old == new {
            return Ok(old);
        }
        let read = |s: &RopeSettings| format!("{} with {} {}", s.scaling, self.theta, s.theta);
        let expected = format!(
            "one of it and {PARAMETERS}, which contradict each other: transformers computes {} by it, other loaders {} by \
             {PARAMETERS}; write all of it into one",
            read(&old),
            read(&new)
        );
        Err(self.c.wrong(SCALING, &expected))
    }
}

/// A number of the object of parameters, in either spelling, that the family reads itself.
///
/// # Errors
/// It is something else.
pub(super) fn own_number(c: &Reader, key: &str) -> Result<Option<f64>> {
    let objects = [c.object_opt(PARAMETERS)?, c.object_opt(SCALING)?];
    objects.into_iter().flatten().find(|r| r.has(key)).map_or(Ok(None), |r| r.f64_opt(key))
}

/// A number, if the key is there; not `null`.
fn number(r: &Reader, key: &str) -> Result<Option<f64>> {
    if r.has(key) { r.f64_or(key, 0.0).map(Some) } else { Ok(None) }
}
