//! The numbers that tokenizers give to tokens.

use serde_json::{Map, Value};
use std::collections::HashMap;

/// Tokens of both tokenizer.json files with their numbers, where these are not the same; in order of the first's.
/// Special ones are a fine-tune's own.
pub fn moved<'a>(ours: &'a Map<String, Value>, theirs: &Map<String, Value>) -> Vec<(&'a str, u64, u64)> {
    let base = numbers(theirs);
    let moved = numbers(ours).into_iter().filter_map(|(token, id)| {
        let base_id = *base.get(token)?;
        (base_id != id).then_some((token, id, base_id))
    });
    let mut moved: Vec<_> = moved.collect();
    moved.sort_by_key(|(_, id, _)| *id);
    moved
}

/// The numbers of a tokenizer's tokens, but for special ones.
fn numbers(tokenizer: &Map<String, Value>) -> HashMap<&str, u64> {
    let vocabulary = tokenizer.get("model").and_then(|model| model.get("vocab"));
    let mut numbers: HashMap<&str, u64> = match vocabulary {
        Some(Value::Object(map)) => map.iter().filter_map(|(token, id)| Some((token.as_str(), id.as_u64()?))).collect(),
        // A Unigram's: texts and how likely they are.
        Some(Value::Array(list)) => {
            list.iter().zip(0..).filter_map(|(entry, id)| Some((entry.get(0)?.as_str()?, id))).collect()
        }
        _ => HashMap::new(),
    };
    for added in tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let Some(token) = added.get("content").and_then(Value::as_str) else { continue };
        match (added.get("special"), added.get("id").and_then(Value::as_u64)) {
            (Some(Value::Bool(true)), _) | (_, None) => numbers.remove(token),
            (_, Some(id)) => numbers.insert(token, id),
        };
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tokenizer(vocab: Value, added: Value) -> Map<String, Value> {
        let json = json!({"model": {"vocab": vocab}, "added_tokens": added});
        json.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn tokens_that_have_another_number_are_found() {
        let base =
            tokenizer(json!({"yes": 0, "no": 1, "<s>": 2}), json!([{"id": 2, "content": "<s>", "special": true}]));
        let same = tokenizer(json!({"yes": 0, "no": 1}), json!([{"id": 5, "content": "<s>", "special": true}]));
        assert_eq!(moved(&same, &base), []);
        let longer = tokenizer(json!({"yes": 0, "no": 1, "<s>": 2, "x": 3}), json!([{"id": 4, "content": "y"}]));
        assert_eq!(moved(&longer, &base), []);
        let swapped = tokenizer(json!({"yes": 1, "no": 0}), json!([]));
        assert_eq!(moved(&swapped, &base), [("no", 0, 1), ("yes", 1, 0)]);
        let added = tokenizer(json!({"yes": 0, "no": 1}), json!([{"id": 1, "content": "yes"}]));
        assert_eq!(moved(&added, &base), [("yes", 1, 0)]);
        let list = |tokens: [&str; 2]| tokenizer(json!(tokens.map(|token| (token, -1.5))), json!([]));
        assert_eq!(moved(&list(["yes", "no"]), &base), []);
        assert_eq!(moved(&list(["a", "yes"]), &list(["yes", "b"])), [("yes", 1, 0)]);
    }
}
