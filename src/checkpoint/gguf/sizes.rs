//! The sizes that a GGUF's metadata give, and its embedding.

use super::architecture::{Architecture, Dim, EMBEDDING};
use super::file::GgufFile;
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// The sizes that shapes are made of.
pub(super) struct Sizes {
    pub layers: usize,
    pub hidden: usize,
    intermediate: usize,
    pub heads: usize,
    key_value_heads: usize,
    pub head: usize,
    /// Channels of each head that RoPE turns.
    pub rotated: usize,
    vocabulary: usize,
    pub context: usize,
}

impl Sizes {
    pub fn read(file: &GgufFile, architecture: &Architecture) -> Result<Sizes> {
        let key = |name: &str| format!("{}.{name}", architecture.name);
        let layers = file.size(&key("block_count"))?;
        if layers > file.tensor_count() {
            let problem = format!("is {layers}, but there are only {} tensors", file.tensor_count());
            return Err(file.problem(&key("block_count"), problem));
        }
        let hidden = file.size(&key("embedding_length"))?;
        let intermediate = file.size(&key("feed_forward_length"))?;
        let heads = file.size(&key("attention.head_count"))?;
        let grouped = key("attention.head_count_kv");
        let key_value_heads = if file.get(&grouped).is_some() { file.size(&grouped)? } else { heads };
        if !heads.is_multiple_of(key_value_heads) {
            return Err(file.problem(&grouped, format!("is {key_value_heads}, expected a divisor of {heads}")));
        }
        let head_key = key("attention.key_length");
        let head = match file.get(&head_key) {
            Some(_) => file.size(&head_key)?,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let problem = format!("is {heads}, expected a divisor of {hidden}");
                return Err(file.problem(&key("attention.head_count"), problem));
            }
        };
        if !head.is_multiple_of(2) {
            return Err(Error::file(file.path(), format!("heads have {head} dimensions, expected an even number")));
        }
        let refuse_part = |name: &str, part: usize| {
            let problem = format!("is {part}, expected the head size {head}; partial heads are not supported");
            Err(file.problem(&key(name), problem))
        };
        let (values, turned) = ("attention.value_length", "rope.dimension_count");
        let size_or_head = |name: &str| if file.get(&key(name)).is_some() { file.size(&key(name)) } else { Ok(head) };
        let (value_size, rotated) = (size_or_head(values)?, size_or_head(turned)?);
        if value_size != head {
            return refuse_part(values, value_size);
        }
        if rotated != head && !(architecture.rope.is_phi && rotated < head && rotated.is_multiple_of(2)) {
            return refuse_part(turned, rotated);
        }
        let embedding = file.tensor(EMBEDDING).ok_or_else(|| missing(file, EMBEDDING))?;
        let vocabulary = embedding.shape.first().copied().unwrap_or(0);
        let context = file.size(&key("context_length"))?;
        let sizes = Sizes { layers, hidden, intermediate, heads, key_value_heads, head, rotated, vocabulary, context };
        if heads.checked_mul(head).is_none_or(|n| n > u32::MAX as usize) {
            return Err(file.problem(&key("attention.head_count"), format!("is {heads}, too many heads of {head}")));
        }
        Ok(sizes)
    }

    pub fn of(&self, dim: Dim) -> usize {
        match dim {
            Dim::Hidden => self.hidden,
            Dim::Intermediate => self.intermediate,
            Dim::Query => self.heads * self.head,
            Dim::KeyValue => self.key_value_heads * self.head,
            Dim::QueryKeyValue => (self.heads + 2 * self.key_value_heads) * self.head,
            Dim::HeadSize => self.head,
            Dim::GateUp => 2 * self.intermediate,
            Dim::Vocabulary => self.vocabulary,
        }
    }

    /// Writes them as config.json has them.
    pub fn write(&self, config: &mut Map<String, Value>) {
        let sizes = [
            ("hidden_size", self.hidden),
            ("intermediate_size", self.intermediate),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.key_value_heads),
            ("head_dim", self.head),
            ("vocab_size", self.vocabulary),
            ("max_position_embeddings", self.context),
        ];
        config.extend(sizes.map(|(key, n)| (key.to_owned(), Value::from(n))));
    }
}

/// That a tensor is not there.
pub(super) fn missing(file: &GgufFile, tensor: &str) -> Error {
    Error::tensor(file.path(), tensor, "is missing; convert the model again")
}
