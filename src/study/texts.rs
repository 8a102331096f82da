//! The critical set on texts of other kinds and languages (the paper's Table 19).

use super::outcome::{Chart, Outcome, Table, row};
use super::{Context, Study};
use crate::error::{Error, Result};
use crate::locate;
use serde::Deserialize;

pub(super) const STUDY: Study = Study {
    name: "texts",
    paper: "Table 19",
    about: "The prefix and the critical set on each of 16 texts of four kinds and five languages",
    run,
};

/// A text, written for this project, of one of the paper's kinds and languages.
#[derive(Debug, Deserialize)]
struct Text {
    kind: String,
    language: String,
    text: String,
}

fn texts() -> Result<Vec<Text>> {
    serde_json::from_str(include_str!("../../data/texts.json"))
        .map_err(|e| Error::input(format!("the texts of the study cannot be read: {e}")))
}

fn run(context: &Context) -> Result<Outcome> {
    let mut table = Table::new(
        "texts",
        "Each text by itself; the reference text is the first",
        &["text", "kind", "language", "tokens", "prefix", "critical set", "neurons", "same set"],
    );
    let usual = context.located()?.result.clone();
    let expected = usual.critical_set.as_ref().map(|set| set.neurons.clone());
    let mut add = |name: String, text: (&str, &str, usize), report: &locate::CriticalSetReport| {
        let set = report.critical_set.as_ref().map(|set| &set.neurons);
        let names = set.map(|set| set.iter().map(|neuron| neuron.short()).collect::<Vec<_>>().join(" "));
        let prefix = report.prefix.collapsed.then_some(report.prefix.n);
        let same = set == expected.as_ref();
        let said = if same { "yes" } else { "no" };
        table.rows.push(row![name, text.0, text.1, text.2, prefix, set.map(Vec::len), names, said]);
        (prefix, same)
    };
    add("reference".into(), ("encyclopedia", "en", context.subject.text.ids.len()), &usual);
    let (mut prefixes, mut same) = (Vec::new(), 0);
    for (at, Text { kind, language, text }) in texts()?.into_iter().enumerate() {
        let encoded = context.tokenizer.encode(&text)?;
        let found = locate::locate_on(context.model(), &encoded, context.search, context.progress)?.report.result;
        let (prefix, is_same) = add((at + 1).to_string(), (&kind, &language, encoded.ids.len()), &found);
        prefixes.extend(prefix);
        same += usize::from(is_same);
    }
    let range = match (prefixes.iter().min(), prefixes.iter().max()) {
        (Some(least), Some(most)) if least == most => format!("n is {least} for each that collapses"),
        (Some(least), Some(most)) => format!("n is {least} to {most}"),
        _ => "no text collapses".into(),
    };
    let findings = vec![format!(
        "{} of 16 texts collapse, {range}; {same} of 16 give the reference text's critical set. In the paper n is 3 for each \
         of 16 texts.",
        prefixes.len()
    )];
    let chart = Chart::lines("texts", "The prefix by text", &table, "text", "prefix").by("language").bars();
    Ok(Outcome { tables: vec![table], charts: vec![chart], findings })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_texts_are_of_the_papers_kinds() {
        let mut counts = BTreeMap::new();
        for text in texts().unwrap() {
            assert!(text.text.chars().count() > 60, "{}", text.text);
            *counts.entry((text.language, text.kind)).or_insert(0) += 1;
        }
        let english: Vec<_> = counts.iter().filter(|((language, _), _)| language == "en").collect();
        assert_eq!(english.len(), 4);
        assert!(english.iter().all(|(_, n)| **n == 2));
        for other in ["fr", "de", "zh", "es"] {
            let n: i32 = counts.iter().filter(|((language, _), _)| language == other).map(|(_, n)| n).sum();
            assert_eq!(n, 2, "{other}");
        }
    }
}
