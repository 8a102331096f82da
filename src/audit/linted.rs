//! Lint by itself: the files, judged.

use super::waive::waive;
use super::{Unexamined, Verdict, gguf, template, unchanged};
use crate::checkpoint::Opened;
use crate::document::{Document, Kind, ModelIdentity};
use crate::error::Result;
use crate::integrity::lesion;
use crate::integrity::lint::{self, AdapterBase, Examined, Lint};
use crate::progress::Progress;
use crate::rules::finding::{self, Finding, Severity};
use crate::rules::{Date, Measurement, Rule, Rules, WhenNotExamined};
use serde::{Serialize, Serializer};
use std::cmp::Reverse;
use std::sync::Arc;

/// What the rules say of a model's files (`achilles-audit/lint/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Linted {
    /// The verdict as JSON has it, where rules were given: documents of the default rules have none.
    #[serde(rename = "verdict", skip_serializing_if = "Option::is_none")]
    told: Option<Verdict>,
    /// How much was looked at.
    pub examined: Examined,
    /// What the rules say, the worst first.
    pub findings: Vec<Finding>,
    /// How many more there were of a kind that a file shows over and over.
    pub not_listed: u64,
    /// What of a hub repository was not examined.
    #[serde(serialize_with = "whys")]
    pub not_examined: Vec<Unexamined>,
    /// Every rule of lint and of waivers that is not off.
    #[serde(skip)]
    pub judged: Vec<Rule>,
    /// What the findings and what was not examined come to.
    #[serde(skip)]
    pub verdict: Verdict,
}

/// What lint judged by.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LintSettings {
    /// The base that an adapter was held against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// From here on a finding is an answer of no.
    pub fail_on: Severity,
    /// `release`, or the rule file; none of the default rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
    /// SHA-256 of the text of these rules, lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules_sha256: Option<String>,
}

impl Kind for Linted {
    const SCHEMA: &'static str = "achilles-audit/lint/v1";
    type Model = ModelIdentity;
    type Settings = LintSettings;
}

/// Examines a model's files, an adapter's beside its `base`, and judges what they show. Of a hub repository that the cache
/// does not hold it reads all but the values of weights; where `download` is set, those, too.
///
/// # Errors
/// There is no such model or base, it has no files that could be a model's, a file changed meanwhile, or the
/// user asked to stop.
pub fn lint(
    model: &str,
    base: Option<&str>,
    download: bool,
    rules: &Rules,
    today: Date,
    progress: &dyn Progress,
) -> Result<Document<Linted>> {
    let open = if download { Opened::open_at_hand } else { Opened::open_headers };
    let opened = Arc::new(open(model, progress)?);
    let adapter_base = base.map(|base| AdapterBase::of(&Opened::open_at_hand(base, progress)?)).transpose()?;
    let origin = opened.origin();
    let found = unchanged(&opened.places(), || observe(&opened, adapter_base.as_ref(), progress))?;
    let by_name = origin.map(|origin| lint::by_name(origin, opened.root())).unwrap_or_default();
    let mut findings = finding::judge(found.observations.into_iter().chain(by_name.observations), rules);
    let took_place = [Measurement::Lint, Measurement::Waivers];
    let about = waive(&mut findings, rules, &took_place, today);
    findings.extend(finding::judge(about, rules));
    findings.sort_by_key(|f| (f.waived.is_some(), Reverse(f.severity)));
    let not_examined = origin.map(|origin| origin.not_examined(by_name.unknown)).unwrap_or_default();
    let mut not_examined: Vec<Unexamined> =
        not_examined.into_iter().map(|why| Unexamined { measurement: Measurement::Lint, why }).collect();
    not_examined.extend(rules.require.iter().filter(|required| !took_place.contains(required)).map(|required| {
        let why = format!("the rules require {}, which `scan` measures and `lint` does not", required.as_str());
        Unexamined { measurement: *required, why }
    }));
    let identity = ModelIdentity {
        source: model.into(),
        config_sha256: Some(found.config_sha256),
        hub: Some(origin.cloned()),
        ..ModelIdentity::default()
    };
    let own = rules.name != Rules::DEFAULT;
    let settings = LintSettings {
        base: base.map(str::to_owned),
        fail_on: rules.fail_on,
        rules: own.then(|| rules.name.clone()),
        rules_sha256: own.then(|| rules.sha256.clone()),
    };
    let incomplete = !not_examined.is_empty() && rules.not_examined == WhenNotExamined::Fail;
    let verdict = Verdict::of(&findings, rules.fail_on, incomplete);
    let result = Linted {
        told: own.then_some(verdict),
        examined: found.examined,
        verdict,
        findings,
        not_listed: found.not_listed,
        not_examined,
        judged: rules.judging(&took_place),
    };
    Ok(Document::new(identity, settings, result))
}

/// What lint sees, indicators of a lesion, and what the chat template does.
pub(super) fn observe(opened: &Arc<Opened>, base: Option<&AdapterBase>, progress: &dyn Progress) -> Result<Lint> {
    let mut found = lint::lint(opened, base, progress)?;
    let has_values = opened.origin().is_none_or(|origin| origin.headers.is_empty());
    let indicators = if has_values { lesion::observe(opened, progress)? } else { Vec::new() };
    found.observations.extend(match opened.is_gguf() {
        true => gguf::observe(opened)?,
        false => template::observe(opened)?,
    });
    found.observations.extend(indicators);
    Ok(found)
}

fn whys<S: Serializer>(list: &[Unexamined], to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_seq(list.iter().map(|left| &left.why))
}
