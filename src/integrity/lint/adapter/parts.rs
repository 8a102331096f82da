//! The names of an adapter's tensors: the module that each changes, and what it is of the change.

/// What a tensor's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'n> {
    /// The module as the adapter names it.
    pub module: &'n str,
    /// The part of the change: `lora_A`, `hada_w1_b`; `lora.down` is two names.
    pub part: &'n str,
    /// `bias`, where it is no weight.
    pub is_bias: bool,
}

/// Of low rank factors, which a tensor is, and with it on which axis the rank lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Factor {
    /// [rank, inputs]
    Down,
    /// [outputs, rank]
    Up,
}

impl Factor {
    pub fn rank_axis(self) -> usize {
        match self {
            Factor::Down => 0,
            Factor::Up => 1,
        }
    }
}

/// The two factors of each product, [`Factor::Down`] first.
pub const PAIRS: &[(&str, &str)] = &[
    ("lora_A", "lora_B"),
    ("lora_down", "lora_up"),
    ("down", "up"),
    ("lora_embedding_A", "lora_embedding_B"),
    ("hada_w1_b", "hada_w1_a"),
    ("hada_w2_b", "hada_w2_a"),
    ("lokr_w1_b", "lokr_w1_a"),
    ("lokr_w2_b", "lokr_w2_a"),
];

/// Parts of a change that mean nothing without each other.
pub const TOGETHER: &[&[&str]] = &[
    &["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"],
    &["boft_R", "boft_s"],
    &["vera_lambda_b", "vera_lambda_d"],
    &["randlora_lambda", "randlora_gamma"],
    &["road_theta", "road_alpha"],
    &["shira_weight", "shira_indices"],
];

/// What the parts of changes begin with.
const STARTS: &[&str] = &[
    "lora_",
    "hada_",
    "lokr_",
    "ia3_",
    "oft_",
    "boft_",
    "vera_",
    "hra_",
    "vblora_",
    "fourierft_",
    "shira_",
    "randlora_",
    "road_",
    "c3a_",
    "miss_",
    "bone_",
    "ln_tuning_",
    "trainable_tokens_",
    "waveft_",
    "delora_",
    "gralora_",
    "dora_scale",
];

impl<'n> Named<'n> {
    /// None where it is no part of a change: a weight that was saved whole, or no adapter's.
    pub fn of(name: &'n str) -> Option<Named<'n>> {
        let mut end = name.len();
        // The part is the last of the names, or stands before `weight`, `bias` and the name of the adapter.
        for _ in 0..4 {
            let start = name[..end].rfind('.').map_or(0, |dot| dot + 1);
            let own = &name[start..end];
            let before = name[..start].strip_suffix('.').unwrap_or_default();
            let last = before.rsplit('.').next().unwrap_or_default();
            // Old attention processors: `to_q_lora.down`.
            let is_pair = ["down", "up"].contains(&own)
                && (last == "lora" || last.ends_with("_lora") || last == "lora_linear_layer");
            if is_pair {
                let module = before.strip_suffix(".lora").unwrap_or(before);
                return Some(Named { module, part: own, is_bias: name.ends_with(".bias") });
            }
            if !before.is_empty()
                && (STARTS.iter().any(|part| own.starts_with(part)) || own == "alpha" && end == name.len())
            {
                return Some(Named { module: before, part: own, is_bias: name.ends_with(".bias") });
            }
            end = start.checked_sub(1)?;
        }
        None
    }

    /// Which factor of a product of low rank it is.
    pub fn factor(&self) -> Option<Factor> {
        if self.is_bias {
            return None;
        }
        PAIRS.iter().find_map(|(down, up)| match self.part {
            part if part == *down => Some(Factor::Down),
            part if part == *up => Some(Factor::Up),
            _ => None,
        })
    }

    pub fn is_of_embedding(&self) -> bool {
        self.part.starts_with("lora_embedding_")
    }

    /// Whether training begins with zeros here, so that nothing is changed while it is none: of embeddings the other
    /// factor than elsewhere.
    pub fn begins_at_zero(&self) -> bool {
        const ZERO: &[&str] = &[
            "lora_B",
            "lora_up",
            "up",
            "lora_embedding_A",
            "lora_E",
            "hada_w2_a",
            "hada_w2_b",
            "lokr_w1",
            "lokr_w1_a",
            "lokr_w2",
            "lokr_w2_a",
            "lokr_w2_b",
            "oft_R",
            "oft_r",
            "boft_R",
            "vera_lambda_b",
            "fourierft_spectrum",
            "shira_weight",
            "randlora_lambda",
            "road_theta",
            "c3a_kernel",
            "miss_block",
            "bone_block",
        ];
        !self.is_bias && ZERO.contains(&self.part)
    }

    /// Whether training begins with ones here, which change nothing.
    pub fn begins_at_one(&self) -> bool {
        self.part == "ia3_l"
    }

    /// Whether nothing comes through where it is all zero.
    pub fn multiplies(&self) -> bool {
        self.factor().is_some()
            || self.part.starts_with("hada_")
            || self.part.starts_with("lokr_")
            || self.begins_at_one()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_changes_are_known_by_name() {
        for (name, expected) in [
            (
                "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
                Some(("base_model.model.model.layers.0.mlp.up_proj", "lora_A")),
            ),
            ("base_model.model.x.lora_B.default.weight", Some(("base_model.model.x", "lora_B"))),
            ("x.lora_B.bias", Some(("x", "lora_B"))),
            ("x.embed_tokens.lora_embedding_A", Some(("x.embed_tokens", "lora_embedding_A"))),
            ("unet.up.to_q.lora.down.weight", Some(("unet.up.to_q", "down"))),
            ("unet.a.processor.to_q_lora.up.weight", Some(("unet.a.processor.to_q_lora", "up"))),
            ("lora_unet_mid_block_to_q.lora_down.weight", Some(("lora_unet_mid_block_to_q", "lora_down"))),
            ("lora_unet_mid_block_to_q.alpha", Some(("lora_unet_mid_block_to_q", "alpha"))),
            ("x.ia3_l", Some(("x", "ia3_l"))),
            ("base_model.model.score.weight", None),
            ("unet.up.0.weight", None),
            ("mlp.up.weight", None),
            ("lora_A.weight", None),
            ("prompt_embeddings", None),
        ] {
            let named = Named::of(name);
            assert_eq!(named.map(|named| (named.module, named.part)), expected, "{name}");
        }
        assert_eq!(Named::of("x.lora_B.bias").unwrap().factor(), None);
    }
}
