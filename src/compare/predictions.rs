//! What base and variant predict of the text, token by token.

use crate::checkpoint::{Checkpoint, python_json};
use crate::error::{Count, Result};
use crate::evaluate::divergence::{Divergence, divergence};
use crate::evaluate::vocabulary::moved;
use crate::locate::Subject;
use crate::progress::Progress;

/// How far the variant's predictions are from the base's, or why that cannot be told.
///
/// # Errors
/// A model cannot compute, or the user asked to stop.
pub fn compare(
    base: Option<&Subject>,
    variant: &Subject,
    progress: &dyn Progress,
) -> Result<std::result::Result<Divergence, String>> {
    let Some(base) = base else { return Ok(Err("of the base only its critical set is known".into())) };
    if let Some(why) = not_same_tokens(base, variant)? {
        return Ok(Err(why));
    }
    let found = divergence(&base.model, &variant.model, &base.text.ids, progress)?;
    Ok(match found.kl_mean_nats.is_finite() {
        true => Ok(found),
        false => {
            let dtype = base.model.arithmetic().as_str();
            Err(format!("a logit is not a number: the arithmetic overflows {dtype}; use a wider --dtype"))
        }
    })
}

/// Why a token of the one is not the same token of the other.
fn not_same_tokens(base: &Subject, variant: &Subject) -> Result<Option<String>> {
    let (ours, theirs) = (variant.model.recipe().vocab_size, base.model.recipe().vocab_size);
    if ours != theirs {
        return Ok(Some(format!("its vocabulary has {ours} tokens, the base's {theirs}")));
    }
    let (ours, theirs) = (&variant.text.ids, &base.text.ids);
    if ours != theirs {
        let tokens = Count(ours.len(), "token", "tokens");
        let problem = match ours.len() == theirs.len() {
            true => "its tokenizer makes other tokens of the text than the base's".into(),
            false => format!("its tokenizer makes {tokens} of the text, the base's {}", theirs.len()),
        };
        return Ok(Some(problem));
    }
    let (ours, theirs) = (tokenizer(variant)?, tokenizer(base)?);
    if ours == theirs {
        return Ok(None);
    }
    let object = |json: &str| python_json::parse(json).unwrap_or_default();
    let (ours, theirs) = (object(ours), object(theirs));
    let moved = moved(&ours, &theirs);
    Ok(moved.first().map(|(token, id, base_id)| {
        let tokens = Count(moved.len(), "token", "tokens");
        format!("its tokenizer gives {tokens} other numbers than the base's: {token:?} is {id}, there {base_id}")
    }))
}

fn tokenizer(subject: &Subject) -> Result<&str> {
    Checkpoint::tokenizer_json(subject.model.checkpoint())
}
