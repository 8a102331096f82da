//! The critical set on texts of other kinds and languages (the paper's Table 19).

use super::outcome::{Chart, Outcome, Table, row};
use super::{Context, Study};
use crate::error::{Error, Result};
use crate::evaluate::text::REFERENCE_TEXT;
use crate::locate;
use serde::Deserialize;

pub(super) const STUDY: Study = Study {
    name: "texts",
    paper: "Table 19",
    about: "The prefix and the critical set on each of 16 texts of four kinds and five languages",
    uses: &[],
    run,
};

/// A text, written for this project, of one of the paper's kinds and languages.
#[derive(Debug, Deserialize)]
struct Text {
    kind: String,
    language: String,
    text: String,
}

/// How many there are.
const TEXTS: usize = 16;

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
    let mut add = |name: String, text: (Option<&str>, Option<&str>, usize), report: &locate::CriticalSetReport| {
        let set = report.critical_set.as_ref().map(|set| &set.neurons);
        let names = set.map(|set| set.iter().map(|neuron| neuron.short()).collect::<Vec<_>>().join(" "));
        let prefix = report.prefix.collapsed.then_some(report.prefix.n);
        let same = set.is_some() && set == expected.as_ref();
        let said = set.map(|_| if same { "yes" } else { "no" });
        table.rows.push(row![name, text.0, text.1, text.2, prefix, set.map(Vec::len), names, said]);
        (prefix, same)
    };
    let (kind, language) = (context.options.text == REFERENCE_TEXT).then_some(("encyclopedia", "en")).unzip();
    add("reference".into(), (kind, language, context.subject.text.ids.len()), &usual);
    let (mut prefixes, mut same, mut unread) = (Vec::new(), 0, Vec::new());
    for (at, Text { kind, language, text }) in texts()?.into_iter().enumerate() {
        let encoded = match context.tokenizer.encode(&text) {
            Ok(encoded) => encoded,
            // The tokenizer has no tokens for a language, say.
            Err(Error::File { problem, .. }) => {
                tracing::warn!("text {}: the tokenizer {problem}", at + 1);
                unread.push(at + 1);
                continue;
            }
            Err(error) => return Err(error),
        };
        let found = locate::locate_on(context.model(), &encoded, context.search, context.progress)?.report.result;
        let (prefix, is_same) =
            add((at + 1).to_string(), (Some(kind.as_str()), Some(language.as_str()), encoded.ids.len()), &found);
        prefixes.extend(prefix);
        same += usize::from(is_same);
    }
    let range = match (prefixes.iter().min(), prefixes.iter().max()) {
        (Some(least), Some(most)) if least == most => format!("n is {least} for each that collapses"),
        (Some(least), Some(most)) => format!("n is {least} to {most}"),
        _ => "no text collapses".into(),
    };
    let all = TEXTS - unread.len();
    let mut findings = vec![format!(
        "{} of {all} texts collapse, {range}; {same} of {all} give the reference text's critical set. In the paper n is 3 for \
         each of 16 texts.",
        prefixes.len()
    )];
    if !unread.is_empty() {
        let unread: Vec<String> = unread.iter().map(usize::to_string).collect();
        findings.push(format!("The tokenizer does not spell the texts {}: they are left out.", unread.join(", ")));
    }
    let chart = Chart::lines("texts", "The prefix by text", &table, "text", "prefix").by("language").bars();
    Ok(Outcome { tables: vec![table], charts: vec![chart], findings })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_texts_are_of_the_papers_kinds() {
        assert_eq!(texts().unwrap().len(), TEXTS);
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
