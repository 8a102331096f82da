//! The critical set against the length of the text (the paper's Figure 7).

use super::outcome::{Chart, Outcome, Table, row};
use super::{Context, Study};
use crate::checkpoint::sha256_hex;
use crate::error::Result;
use crate::evaluate::text::{Encoded, MIN_STABLE_TOKENS};
use crate::locate;

pub(super) const STUDY: Study = Study {
    name: "text-length",
    paper: "Figure 7",
    about: "The prefix and the critical set on the first tokens of a story that goes on and on",
    uses: &[],
    run,
};

/// Written for this project, in the paper's manner: each sentence carries the story on.
const STORY: &str = "A keeper lived alone in the lighthouse at the end of the bay. Every evening he climbed the stairs, \
lit the lamp and watched the ships find their way home, until one night a fog came in that no light could pass.";

/// How many of its tokens are taken; of one there is no perplexity.
const LENGTHS: [usize; 14] = [2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 35, 40];

fn run(context: &Context) -> Result<Outcome> {
    let mut table = Table::new(
        "text-length",
        "On the first tokens of a story",
        &["tokens", "prefix", "critical set", "same set as usual"],
    );
    let story = context.tokenizer.encode(STORY)?;
    let expected = context.located()?.result.critical_set.as_ref().map(|set| set.neurons.clone());
    let (mut short, mut long) = (Vec::new(), Vec::new());
    for tokens in LENGTHS.into_iter().filter(|tokens| *tokens <= story.ids.len()) {
        let ids = &story.ids[..tokens];
        let text = Encoded { ids: ids.into(), sha256: sha256_hex(context.tokenizer.decode(ids)?.as_bytes()) };
        let found = locate::locate_on(context.model(), &text, context.search, context.progress)?.report.result;
        let prefix = found.prefix.collapsed.then_some(found.prefix.n);
        let set = found.critical_set.map(|set| set.neurons);
        let same = set.as_ref().map(|set| if Some(set) == expected.as_ref() { "yes" } else { "no" });
        if tokens < MIN_STABLE_TOKENS {
            short.push(prefix)
        } else {
            long.push(prefix)
        };
        table.rows.push(row![tokens, prefix, set.map(|set| set.len()), same]);
    }
    let told = |prefixes: &[Option<usize>]| {
        let mut known: Vec<usize> = prefixes.iter().flatten().copied().collect();
        known.sort_unstable();
        known.dedup();
        let without = prefixes.iter().filter(|prefix| prefix.is_none()).count();
        let known: Vec<String> = known.iter().map(usize::to_string).collect();
        let n = if known.is_empty() { "no prefix collapses".into() } else { format!("n is {}", known.join(", ")) };
        if without > 0 && !known.is_empty() { format!("{n} ({without} lengths do not collapse)") } else { n }
    };
    let findings = vec![format!(
        "Below {MIN_STABLE_TOKENS} tokens {}, from there on {}. In the paper n is 10 to 39 below 10 tokens, and 7 from 10 on.",
        told(&short),
        told(&long)
    )];
    let chart = Chart::lines("text-length", "The prefix against the tokens of the text", &table, "tokens", "prefix");
    Ok(Outcome { tables: vec![table], charts: vec![chart], findings })
}
