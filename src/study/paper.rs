//! What the paper reports, as `data/paper.json` holds it.

use super::outcome::Table;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The paper's figures.
#[derive(Debug, Deserialize)]
struct Paper {
    source: String,
    settings: String,
    studies: BTreeMap<String, Vec<Table>>,
}

/// The paper's tables beside a study's, none where the study is ours; and where they are from.
pub(super) fn tables(study: &str) -> Result<(Vec<Table>, String)> {
    let text = include_str!("../../data/paper.json");
    let mut paper: Paper =
        serde_json::from_str(text).map_err(|e| Error::input(format!("the paper's figures cannot be read: {e}")))?;
    let source = format!("{}: {}", paper.source, paper.settings);
    Ok((paper.studies.remove(study).unwrap_or_default(), source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::STUDIES;

    /// Each study that repeats something has what it repeats, and nothing is held for a study that is not there.
    #[test]
    fn the_papers_figures_belong_to_studies() {
        let paper: Paper = serde_json::from_str(include_str!("../../data/paper.json")).unwrap();
        for study in STUDIES {
            assert_eq!(paper.studies.contains_key(study.name), study.paper != "ours", "{}", study.name);
        }
        for (name, tables) in paper.studies {
            assert!(STUDIES.iter().any(|study| study.name == name), "{name}");
            for table in tables {
                assert!(table.rows.iter().all(|row| row.len() == table.columns.len()), "{name} {}", table.name);
            }
        }
    }
}
