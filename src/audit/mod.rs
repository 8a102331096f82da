//! The audit: what the rules need is measured, and judged by them. One result, which every report renders.

mod against;
mod base;
mod baseline;
mod beside;
mod cache;
mod critical_set;
mod gguf;
mod linted;
mod measured;
mod place;
mod rescaled;
mod run;
mod template;
#[cfg(test)]
#[cfg(unix)]
mod tripped;
mod unchanged;
mod waive;

use crate::checkpoint::Opened;
use crate::checkpoint::hub::Origin;
use crate::compare::Compared;
use crate::document::{Document, Kind, ModelIdentity};
use crate::error::{Error, Result};
use crate::integrity::fingerprint::Fingerprint;
use crate::integrity::lint::{self, Examined};
use crate::integrity::signature::{SignatureReport, Trust};
use crate::locate::CriticalSetReport;
use crate::monitor::Checked;
use crate::progress::Progress;
use crate::rules::finding::{self, Finding, RuleObservation, Severity};
use crate::rules::{Date, Measurement, Rule, Rules, WhenNotExamined};
pub use against::Integrity;
pub use base::limits as base_limits;
pub use linted::{LintSettings, Linted, lint};
use measured::Wanted;
pub use measured::{BaselineCheck, Run};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unchanged::unchanged;
use waive::waive;

/// What to audit, and against what.
#[derive(Debug)]
pub struct Request<'a> {
    /// MODEL as it was given: a folder, a .gguf file or a hub id.
    pub model: &'a str,
    /// What is measured, and how it is judged.
    pub rules: &'a Rules,
    /// How to run the model; none: it is not run.
    pub run: Option<Run>,
    /// The file of the fingerprint that the checkpoint is held against, if any.
    pub fingerprint: Option<PathBuf>,
    /// Whose signature is accepted; none: none is verified.
    pub signature: Option<Signature>,
    /// The day that waivers are held against.
    pub today: Date,
}

/// A signature that is to be verified.
#[derive(Debug)]
pub struct Signature {
    /// The key, or the roots, by which a signature is accepted.
    pub trust: Trust,
    /// Where it lies if not at its usual place.
    pub file: Option<PathBuf>,
    /// Leave files alone that it does not list.
    pub ignore_unsigned_files: bool,
}

/// What came of an audit (`achilles-audit/scan/v1`).
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    /// What the findings and what was not examined come to.
    pub verdict: Verdict,
    /// What the rules say of what was measured, the worst first.
    pub findings: Vec<Finding>,
    /// How many more there were of a kind that a file shows over and over.
    pub not_listed: u64,
    /// What was to be examined and was not: nothing is known of it.
    pub not_examined: Vec<Unexamined>,
    /// What nobody asked for, or what this checkpoint does not have.
    pub skipped: Vec<Unexamined>,
    /// Every rule whose measurement took place and that is not off.
    pub judged: Vec<Rule>,
    /// How much lint looked at.
    pub lint: Option<Examined>,
    /// The located critical set; none where the model was not run or failed to.
    pub critical_set: Option<Document<CriticalSetReport>>,
    /// How it stands beside its base; none where none was given or that failed.
    pub base: Option<Compared>,
    /// How its activations stand beside the baseline; none where none was given or that failed.
    pub baseline: Option<Checked>,
    /// The comparison with the fingerprint.
    pub fingerprint: Option<Integrity>,
    /// What verifying the signature gave; none where that was not asked for or failed.
    pub signature: Option<Document<SignatureReport>>,
}

impl Kind for Audit {
    const SCHEMA: &'static str = "achilles-audit/scan/v1";
    type Model = ModelIdentity;
    type Settings = AuditSettings;
}

/// What an audit judged by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditSettings {
    /// `default`, `release`, or the rule file.
    pub rules: String,
    /// SHA-256 of the text of the rules, lower-case hex.
    pub rules_sha256: String,
    /// From here on a finding fails the gate.
    pub fail_on: Severity,
    /// What becomes of a scan that could not examine everything.
    pub not_examined: WhenNotExamined,
    /// What had to be measured.
    pub require: Vec<Measurement>,
    /// The day that waivers were held against, UTC.
    pub date: Date,
}

/// The answer to "may it ship?", which the exit code repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing speaks against it: exit code 0.
    Pass,
    /// A finding does: exit code 1.
    Fail,
    /// Nothing that was examined does, but not everything was: exit code 2.
    NotExamined,
}

impl Verdict {
    /// The answer to findings; `incomplete` where not everything was examined that has to be.
    fn of(findings: &[Finding], fail_on: Severity, incomplete: bool) -> Verdict {
        match (finding::fails(findings, fail_on), incomplete) {
            (true, _) => Verdict::Fail,
            (false, true) => Verdict::NotExamined,
            (false, false) => Verdict::Pass,
        }
    }

    /// What the process exits with: 0, 1 or 2.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Pass => 0,
            Verdict::Fail => 1,
            Verdict::NotExamined => 2,
        }
    }
}

/// Something that was not examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unexamined {
    /// The measurement that did not take place.
    pub measurement: Measurement,
    /// The reason, in a sentence.
    pub why: String,
}

/// Measures what the rules and the request ask for, and judges it.
///
/// # Errors
/// There is no such model, it has no files that could be a model's, a file of the request (the fingerprint, the base)
/// is not there or cannot be read, a file of the model changed meanwhile, or the user asked to stop. What a model lacks to be run is no error: it was then not examined.
pub fn audit(request: &Request<'_>, progress: &dyn Progress) -> Result<Document<Audit>> {
    let fingerprint = request.fingerprint.as_deref().map(against::read).transpose()?;
    if let Some(base) = request.run.as_ref().and_then(|run| run.base.as_ref()) {
        base.check()?;
    }
    let opened = Arc::new(Opened::open_at_hand(request.model, progress)?);
    unchanged(&opened.places(), || examine(request, fingerprint, &opened, progress))
}

fn examine(
    request: &Request<'_>,
    fingerprint: Option<(&Path, Fingerprint)>,
    opened: &Arc<Opened>,
    progress: &dyn Progress,
) -> Result<Document<Audit>> {
    let mut gate = Gate::new(request);
    let (template, class) = template::identity(opened);
    (gate.model.chat_template_sha256, gate.model.tokenizer_class) = (Some(template), Some(class));
    if let Some(origin) = opened.origin() {
        gate.origin(origin, opened.root());
    }
    if gate.wants(Measurement::Lint) {
        gate.lint(opened, progress)?;
    }
    gate.run(request, opened, progress)?;
    match (&fingerprint, gate.wants(Measurement::Fingerprint)) {
        (_, false) => {}
        (None, true) => gate.leave(Measurement::Fingerprint, "no fingerprint was given".into(), false),
        (Some((path, before)), true) => {
            let found = against::fingerprint(opened, path, before, progress);
            gate.take(Measurement::Fingerprint, found, |audit, integrity| audit.fingerprint = Some(integrity))?;
        }
    }
    match (&request.signature, gate.wants(Measurement::Signature)) {
        (_, false) => {}
        (None, true) => gate.leave(Measurement::Signature, "no signature was to be verified".into(), false),
        (Some(Signature { trust, file, ignore_unsigned_files }), true) => {
            let found = against::signature(opened.root(), file.as_deref(), trust, *ignore_unsigned_files, progress);
            gate.take(Measurement::Signature, found, |audit, report| audit.signature = Some(report))?;
        }
    }
    Ok(gate.close(request))
}

/// What a measurement saw, and what it could not see.
struct Measured<T> {
    seen: Vec<RuleObservation>,
    not_examined: Vec<String>,
    result: T,
}

/// An audit under way.
struct Gate<'a> {
    rules: &'a Rules,
    model: ModelIdentity,
    settings: AuditSettings,
    audit: Audit,
    seen: Vec<RuleObservation>,
    took_place: Vec<Measurement>,
}

impl<'a> Gate<'a> {
    fn new(request: &Request<'a>) -> Gate<'a> {
        let rules = request.rules;
        let model = ModelIdentity {
            source: request.model.into(),
            architecture: Some(None),
            config_sha256: Some(None),
            chat_template_sha256: Some(None),
            tokenizer_class: Some(None),
            hub: None,
            weights: None,
        };
        let settings = AuditSettings {
            rules: rules.name.clone(),
            rules_sha256: rules.sha256.clone(),
            fail_on: rules.fail_on,
            not_examined: rules.not_examined,
            require: rules.require.clone(),
            date: request.today,
        };
        let audit = Audit {
            verdict: Verdict::NotExamined,
            findings: Vec::new(),
            not_listed: 0,
            not_examined: Vec::new(),
            skipped: Vec::new(),
            judged: Vec::new(),
            lint: None,
            critical_set: None,
            base: None,
            baseline: None,
            fingerprint: None,
            signature: None,
        };
        Gate { rules, model, settings, audit, seen: Vec::new(), took_place: Vec::new() }
    }

    /// Whether to make a measurement: a rule judges by it. Where none does it is left.
    fn wants(&mut self, measurement: Measurement) -> bool {
        let judges = self.rules.judges(measurement);
        if !judges {
            self.leave(measurement, "the rules that judge it are off".into(), false);
        }
        judges
    }

    /// Notes what was not measured. `tried`: somebody asked for it and it failed.
    fn leave(&mut self, measurement: Measurement, why: String, tried: bool) {
        let left = Unexamined { measurement, why };
        match tried || self.rules.require.contains(&measurement) {
            true => self.audit.not_examined.push(left),
            false => self.audit.skipped.push(left),
        }
    }

    /// Tells which commit it is, and judges or leaves what of the repository is not in its snapshot.
    fn origin(&mut self, origin: &Origin, snapshot: &Path) {
        let by_name = lint::by_name(origin, snapshot);
        self.seen.extend(by_name.observations.into_iter().map(RuleObservation::from));
        for why in origin.not_examined(by_name.unknown) {
            self.leave(Measurement::Lint, why, true);
        }
        self.model.hub = Some(Some(origin.clone()));
    }

    fn lint(&mut self, opened: &Arc<Opened>, progress: &dyn Progress) -> Result<()> {
        let found = match linted::observe(opened, None, progress) {
            Err(error) if opened.is_gguf() && !matches!(error, Error::Interrupted) => {
                self.leave(Measurement::Lint, error.to_string(), true);
                return Ok(());
            }
            found => found?,
        };
        self.took_place.push(Measurement::Lint);
        self.seen.extend(found.observations.into_iter().map(RuleObservation::from));
        self.audit.lint = Some(found.examined);
        self.audit.not_listed = found.not_listed;
        self.model.config_sha256 = Some(found.config_sha256);
        Ok(())
    }

    /// Makes the measurements that the model has to be run for.
    fn run(&mut self, request: &Request<'_>, opened: &Arc<Opened>, progress: &dyn Progress) -> Result<()> {
        let Some(run) = &request.run else {
            for measurement in [Measurement::CriticalSet, Measurement::Base, Measurement::Baseline] {
                if self.wants(measurement) {
                    self.leave(measurement, "the model was not to be run".into(), false);
                }
            }
            return Ok(());
        };
        let wanted = Wanted {
            critical_set: self.wants(Measurement::CriticalSet),
            base: self.wants_given(Measurement::Base, run.base.is_some(), "no base was given"),
            baseline: self.wants_given(Measurement::Baseline, run.baseline.is_some(), "no baseline was given"),
        };
        if !wanted.any() {
            return Ok(());
        }
        let (ran, seen) = match run::run(opened, run, wanted, self.rules, progress) {
            Ok(ran) => ran,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                for measurement in wanted.measurements() {
                    self.leave(measurement, error.to_string(), true);
                }
                return Ok(());
            }
        };
        for (measurement, seen) in seen {
            self.took_place.push(measurement);
            self.seen.extend(seen);
        }
        for (measurement, why) in ran.failed {
            self.leave(measurement, why, true);
        }
        self.model.architecture = Some(Some(ran.architecture));
        self.model.config_sha256 = Some(Some(ran.config_sha256));
        self.model.weights = ran.weights;
        self.audit.critical_set = ran.located.and_then(|located| located.report);
        self.audit.base = ran.compared;
        self.audit.baseline = ran.checked;
        Ok(())
    }

    /// As [`Gate::wants`], of what there has to be something for to hold the model against.
    fn wants_given(&mut self, measurement: Measurement, given: bool, why: &str) -> bool {
        let wanted = self.wants(measurement);
        if wanted && !given {
            self.leave(measurement, why.into(), false);
        }
        wanted && given
    }

    fn take<T>(
        &mut self,
        measurement: Measurement,
        found: Result<Measured<T>>,
        keep: impl FnOnce(&mut Audit, T),
    ) -> Result<()> {
        match found {
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => self.leave(measurement, error.to_string(), true),
            Ok(found) => {
                self.took_place.push(measurement);
                self.seen.extend(found.seen);
                for why in found.not_examined {
                    self.leave(measurement, why, true);
                }
                keep(&mut self.audit, found.result);
            }
        }
        Ok(())
    }

    /// Judges, waives, and gives the verdict.
    fn close(mut self, request: &Request<'_>) -> Document<Audit> {
        let rules = self.rules;
        if self.took_place.is_empty() && self.audit.not_examined.is_empty() {
            // Nothing can speak against what nobody looked at.
            self.audit.not_examined.append(&mut self.audit.skipped);
        }
        self.took_place.push(Measurement::Waivers);
        let mut findings = finding::judge(self.seen, rules);
        let about = waive(&mut findings, rules, &self.took_place, request.today);
        findings.extend(finding::judge(about, rules));
        findings.sort_by_key(|f| (f.waived.is_some(), std::cmp::Reverse(f.severity)));
        self.audit.judged = rules.judging(&self.took_place);
        let incomplete = !self.audit.not_examined.is_empty() && rules.not_examined == WhenNotExamined::Fail;
        self.audit.verdict = Verdict::of(&findings, rules.fail_on, incomplete);
        self.audit.findings = findings;
        Document::new(self.model, self.settings, self.audit)
    }
}
