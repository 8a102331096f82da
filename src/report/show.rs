//! What every document can show of itself; [`RENDERERS`](super::RENDERERS) are the forms of it.

use super::{
    Judged, compare, differences, estimate, findings, harden, html, hub, json, monitor, perplexity, probe, scan,
    signature, study, table, weights,
};
use crate::audit::{Audit, Linted};
use crate::compare::Comparison;
use crate::compare::published::PublishedSets;
use crate::document::Document;
use crate::error::Result;
use crate::evaluate::corpus_perplexity::CorpusPerplexity;
use crate::evaluate::perplexity::Perplexity;
use crate::harden::Hardened;
use crate::integrity::document::{DiffDocument, VerificationDocument};
use crate::integrity::published::PublishedVerification;
use crate::integrity::signature::SignatureReport;
use crate::locate::{CriticalSetReport, Estimate};
use crate::monitor::CheckDocument;
use crate::patch::{PlanDocument, RestoreDocument};
use crate::probe::Probe;
use crate::study::StudyReport;
use serde::Serialize;

/// A document that can be shown.
pub trait Show: ShowJson {
    /// For people.
    fn table(&self) -> String;
}

/// What can be written as JSON.
pub trait ShowJson {
    /// For programs.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    fn json(&self) -> Result<String>;
}

impl<T: Serialize> ShowJson for T {
    fn json(&self) -> Result<String> {
        json::document(self)
    }
}

/// A document of findings.
pub trait ShowFindings: Show {
    /// What it has in common with others.
    fn judged(&self) -> Judged<'_>;

    /// A page that stands alone.
    fn html(&self) -> String;

    /// The command that gives it.
    fn command(&self) -> &'static str;

    /// What was given to it besides the model, the rules and how to search: flags, and their values where they are known.
    fn given(&self) -> Vec<(&'static str, Option<String>)>;

    /// The critical set, where it was located.
    fn critical_set(&self) -> Option<&Document<CriticalSetReport>> {
        None
    }
}

impl Show for Document<Audit> {
    fn table(&self) -> String {
        scan::table(self)
    }
}

impl ShowFindings for Document<Audit> {
    fn judged(&self) -> Judged<'_> {
        self.into()
    }

    fn html(&self) -> String {
        html::document(self)
    }

    fn command(&self) -> &'static str {
        "scan"
    }

    fn given(&self) -> Vec<(&'static str, Option<String>)> {
        let (audit, file) = (&self.result, || Some("FILE".to_owned()));
        [
            audit.base.as_ref().map(|_| ("base", Some("BASE".to_owned()))),
            audit.fingerprint.as_ref().map(|_| ("fingerprint", file())),
            audit.baseline.as_ref().map(|_| ("baseline", file())),
            audit.baseline.as_ref().map(|_| ("prompts", file())),
            audit.signature.as_ref().map(|_| ("signature", None)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn critical_set(&self) -> Option<&Document<CriticalSetReport>> {
        self.result.critical_set.as_ref()
    }
}

impl Show for Document<Linted> {
    fn table(&self) -> String {
        let not_examined: Vec<String> = self.result.not_examined.iter().map(|left| left.why.clone()).collect();
        let origin = self.model.hub();
        findings::table(&self.result) + &hub::lines(origin, &not_examined)
    }
}

impl ShowFindings for Document<Linted> {
    fn judged(&self) -> Judged<'_> {
        self.into()
    }

    fn html(&self) -> String {
        html::lint(self)
    }

    fn command(&self) -> &'static str {
        "lint"
    }

    fn given(&self) -> Vec<(&'static str, Option<String>)> {
        let base = self.settings.base.clone().map(|base| ("base", Some(base)));
        let whole = self.model.hub().is_some_and(|origin| origin.headers.is_empty());
        base.into_iter().chain(whole.then_some(("download", None))).collect()
    }
}

impl Show for Document<PublishedVerification> {
    fn table(&self) -> String {
        differences::published(&self.result) + &hub::lines(self.model.hub(), &self.result.not_examined)
    }
}

impl Show for Document<CriticalSetReport> {
    fn table(&self) -> String {
        table::critical_set(self)
    }
}

impl Show for Document<Estimate> {
    fn table(&self) -> String {
        estimate::table_of(self)
    }
}

impl Show for Document<Hardened> {
    fn table(&self) -> String {
        harden::table_of(self)
    }
}

impl Show for Document<Comparison> {
    fn table(&self) -> String {
        compare::comparison(&self.result)
    }
}

impl Show for Document<PublishedSets> {
    fn table(&self) -> String {
        compare::published(&self.result.sets)
    }
}

impl Show for Document<SignatureReport> {
    fn table(&self) -> String {
        signature::lines(self)
    }
}

impl Show for Document<CorpusPerplexity> {
    fn table(&self) -> String {
        perplexity::of_corpora(&self.result) + &weights::line(&self.model)
    }
}

impl Show for Document<Perplexity> {
    fn table(&self) -> String {
        perplexity::table(&self.result) + &weights::line(&self.model)
    }
}

impl Show for Document<Probe> {
    fn table(&self) -> String {
        probe::probed(self) + &weights::line(&self.model)
    }
}

impl Show for Document<StudyReport> {
    fn table(&self) -> String {
        study::table(self) + &weights::line(&self.model)
    }
}

impl Show for Document<CheckDocument> {
    fn table(&self) -> String {
        let model = self.model.as_ref().map(|model| weights::line(&model.identity));
        monitor::checked(&self.result.result) + &model.unwrap_or_default()
    }
}

impl Show for Document<DiffDocument> {
    fn table(&self) -> String {
        let DiffDocument { hub, not_examined, result } = &self.result;
        let origins = [&hub.before, &hub.after].map(|origin| hub::lines(origin.as_ref(), &[]));
        differences::diff(result) + &origins.concat() + &hub::lines(None, not_examined)
    }
}

impl Show for Document<VerificationDocument> {
    fn table(&self) -> String {
        let origin = self.model.hub();
        differences::verification(&self.result.result) + &hub::lines(origin, &self.result.not_examined)
    }
}

impl Show for Document<PlanDocument> {
    fn table(&self) -> String {
        table::patch_plan(&self.result)
    }
}

impl Show for Document<RestoreDocument> {
    fn table(&self) -> String {
        table::restored(&self.result)
    }
}
