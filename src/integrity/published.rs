//! Holds a model's files against the digests that a hub publishes of them, or against the names that the Hugging Face
//! cache gave to what it holds.

use super::difference::Difference;
use super::fingerprint::{Listed, Problems, files_of};
use crate::checkpoint::Opened;
use crate::checkpoint::hub::published::{Published, PublishedFile, published};
use crate::checkpoint::hub::{HubId, HubSettings};
use crate::checkpoint::snapshot::{Blob, Snapshot};
use crate::checkpoint::stand_in::StandIn;
use crate::document::{Document, Kind, ModelIdentity};
use crate::error::{Error, Result};
use crate::escape::printable;
use crate::files;
use crate::progress::Progress;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What a hub publishes of a commit, to hold a folder against later (`achilles-audit/published/v1`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Manifest(Published);

impl Kind for Manifest {
    const SCHEMA: &'static str = "achilles-audit/published/v1";
    type Model = ();
    type Settings = ();
}

/// Asks the hub for it.
///
/// # Errors
/// As [`published`].
pub fn manifest(id: &HubId) -> Result<Document<Manifest>> {
    Ok(Document::new((), (), Manifest(published(id, &HubSettings::from_env()?)?)))
}

impl Manifest {
    /// What it says.
    pub fn published(&self) -> &Published {
        &self.0
    }

    /// Whether a file says that it is one, of whatever version, or what a damaged one begins with.
    pub fn is_at(path: &Path) -> bool {
        let family = Manifest::SCHEMA.rsplit_once('/').map_or(Manifest::SCHEMA, |(family, _)| family);
        let mut start = Vec::new();
        let read = files::open_regular(path).map(|file| file.take(LONGEST_START).read_to_end(&mut start));
        read.is_ok_and(|read| read.is_ok()) && String::from_utf8_lossy(&start).contains(&format!("\"{family}/"))
    }

    /// What was written to a file.
    ///
    /// # Errors
    /// It is no manifest, or what no hub publishes.
    fn read(path: &Path) -> Result<Published> {
        #[derive(Deserialize)]
        struct Said {
            schema: String,
        }
        let text = files::read_text(path, files::LARGEST_READ)?;
        let none = |problem: String| Error::file(path, format!("{problem}; make it anew with `fingerprint --hub`"));
        let Said { schema } = serde_json::from_str(&text).map_err(|e| none(format!("is a damaged manifest ({e})")))?;
        if schema != Manifest::SCHEMA {
            return Err(none(format!("is {schema}, expected {}", Manifest::SCHEMA)));
        }
        let read: Manifest = serde_json::from_str(&text).map_err(|e| none(format!("is no manifest ({e})")))?;
        match read.0.problem() {
            Some(problem) => Err(none(format!("is no manifest: {problem}"))),
            None => Ok(read.0),
        }
    }
}

/// What a model is held against.
#[derive(Debug, Clone)]
pub enum Against<'a> {
    /// What the hub says of a repository.
    Hub(&'a HubId),
    /// The same of the repository that the model is from: by its id, or by its place in the cache.
    Own,
    /// A manifest's file.
    Manifest(&'a Path),
    /// The names of the cache's blobs; nobody is asked.
    Cache,
}

/// A model beside what was published of it (`achilles-audit/published-verification/v1`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PublishedVerification {
    /// Every file is the published one, and none that a model needs is missing.
    pub passed: bool,
    /// What nothing was known of.
    pub not_examined: Vec<String>,
    /// The repository, where digests are the hub's.
    pub repository: Option<String>,
    /// Its commit.
    pub commit: Option<String>,
    /// How many files were read.
    pub files: usize,
    /// How many bytes.
    pub bytes: u64,
    /// In order of path.
    pub differences: Vec<Difference>,
    /// Published files that are not here, and that a model does not need.
    pub not_here: Vec<String>,
}

/// What a model was held against.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PublishedSettings {
    /// `hub`, `manifest` or `cache`.
    pub against: &'static str,
    /// The repository, or the manifest's file; none of the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

impl Kind for PublishedVerification {
    const SCHEMA: &'static str = "achilles-audit/published-verification/v1";
    type Model = ModelIdentity;
    type Settings = PublishedSettings;
}

/// Reads every file of a model once and holds it against what was published.
///
/// # Errors
/// There is no such model; the hub or the manifest cannot be read; it is not known what the model was published as; or a
/// file of it is no published one's namesake.
pub fn verify_published(
    model: &str,
    against: &Against,
    progress: &dyn Progress,
) -> Result<Document<PublishedVerification>> {
    let reference = |id: &HubId| published(id, &HubSettings::from_env()?).map(Some);
    // What is asked of the hub comes before what is fetched from it.
    let (kind, mut name, mut published) = match against {
        Against::Hub(id) => ("hub", Some(id.to_string()), reference(id)?),
        Against::Manifest(path) => ("manifest", Some(path.display().to_string()), Some(Manifest::read(path)?)),
        Against::Own => ("hub", None, None),
        Against::Cache => ("cache", None, None),
    };
    let opened = Opened::open(model, progress)?;
    if matches!(against, Against::Own) {
        let id = own_id(&opened).ok_or_else(|| {
            let problem = "does not say what it was published as; give --hub ORG/NAME[@REVISION]";
            Error::file(opened.root(), problem)
        })?;
        (name, published) = (Some(id.to_string()), reference(&id)?);
    }
    let own = match against {
        Against::Manifest(path) => Some(*path),
        _ => None,
    };
    let (found, problems) = files_of(&opened, &[], own)?;
    let result = match &published {
        Some(published) => beside(&opened, published, &found, problems, progress)?,
        None => named(&opened, &found, problems, progress)?,
    };
    let identity =
        ModelIdentity { source: model.into(), hub: Some(opened.origin().cloned()), ..ModelIdentity::default() };
    Ok(Document::new(identity, PublishedSettings { against: kind, reference: name }, result))
}

/// The commit that a model is, by where it was fetched from or by its place in the cache.
fn own_id(opened: &Opened) -> Option<HubId> {
    match opened.origin() {
        Some(origin) => Some(origin.repository.parse::<HubId>().ok()?.at(&origin.commit)),
        None => {
            let place = opened.root().canonicalize().ok()?;
            Snapshot::of(&place)?.id(&place)
        }
    }
}

/// Against what a hub publishes.
fn beside(
    opened: &Opened,
    published: &Published,
    found: &[Listed],
    problems: Problems,
    progress: &dyn Progress,
) -> Result<PublishedVerification> {
    let by_path: BTreeMap<&str, &PublishedFile> = published.files.iter().map(|file| (&*file.path, file)).collect();
    let mut here: BTreeSet<String> = problems.iter().map(|(path, _)| path.clone()).collect();
    let mut differences: Vec<Difference> = problems.into_iter().map(damaged).collect();
    let mut pairs: Vec<(&Listed, &PublishedFile)> = Vec::new();
    for listed in found {
        // A file by itself may have lain in any folder of the repository.
        let as_published = match opened.is_file() {
            false => by_path.get(listed.path.as_str()).copied(),
            true => namesake(opened, published, listed)?,
        };
        match as_published {
            Some(file) => pairs.push((listed, file)),
            None => differences.push(Difference::FileExtra { path: listed.path.clone() }),
        }
        here.insert(listed.path.clone());
    }
    let missing: Vec<&str> = match opened.is_file() {
        false => by_path.keys().filter(|path| !here.contains(**path)).copied().collect(),
        true => Vec::new(),
    };
    // What fetching leaves on the hub no loader of a folder takes.
    let is_left_out =
        |path: &str| opened.origin().is_some_and(|origin| origin.not_fetched.iter().any(|left| left.path == path));
    let (not_here, missing): (Vec<&str>, Vec<&str>) =
        missing.into_iter().partition(|path| is_left_out(path) || published.may_be_missing(path, &here));
    differences.extend(missing.into_iter().map(|path| Difference::FileMissing { path: path.into() }));
    let (files, bytes) = (pairs.len(), pairs.iter().map(|(listed, _)| listed.bytes).sum());
    let (repository, commit) = (&published.repository, &published.commit);
    differences.extend(each(opened, &pairs, progress, |listed, file, content| {
        let said = format!("{repository} publishes it at {commit}");
        if listed.bytes != file.bytes {
            return Ok(Some(format!("has {} bytes, and {said} with {}", listed.bytes, file.bytes)));
        }
        let found = file.content.alike(listed.bytes, content).map_err(Error::io(&listed.path))?;
        let problem = || format!("its bytes are those of {found}, and {said} as {}", file.content);
        Ok((found != file.content).then(problem))
    })?);
    differences.sort_by(|a, b| path(a).cmp(path(b)));
    Ok(PublishedVerification {
        passed: differences.is_empty(),
        not_examined: Vec::new(),
        repository: Some(repository.clone()),
        commit: Some(commit.clone()),
        files,
        bytes,
        differences,
        not_here: not_here.into_iter().map(str::to_owned).collect(),
    })
}

/// The published file of a lone file's name; where there are several, the one that it is, or the first of its size.
fn namesake<'p>(opened: &Opened, published: &'p Published, listed: &Listed) -> Result<Option<&'p PublishedFile>> {
    let is_namesake = |file: &&PublishedFile| file.path.rsplit('/').next() == Some(&listed.path);
    let all: Vec<&PublishedFile> = published.files.iter().filter(is_namesake).collect();
    let of_size: Vec<&PublishedFile> = all.iter().filter(|file| file.bytes == listed.bytes).copied().collect();
    if of_size.len() > 1 {
        let path = opened.base().join(&listed.path);
        for file in &of_size {
            if file.content.names(listed.bytes, files::open_regular(&path)?).map_err(Error::io(&path))? {
                return Ok(Some(file));
            }
        }
    }
    Ok(of_size.first().or(all.first()).copied())
}

/// A download gone wrong, by its first bytes.
fn stand_in(path: &Path) -> Result<Option<StandIn>> {
    let mut start = Vec::new();
    files::open_regular(path)?.take(LONGEST_START).read_to_end(&mut start).map_err(Error::io(path))?;
    Ok(StandIn::of_text(&start))
}

/// Bytes by which a stand-in is known.
const LONGEST_START: u64 = 4096;

/// Against the names of the cache's blobs.
fn named(
    opened: &Opened,
    found: &[Listed],
    problems: Problems,
    progress: &dyn Progress,
) -> Result<PublishedVerification> {
    let blobs: Vec<(&Listed, &Blob)> =
        found.iter().filter_map(|listed| Some((listed, listed.blob.as_ref()?))).collect();
    if blobs.is_empty() && problems.is_empty() {
        let problem = "is no snapshot in the Hugging Face cache, whose files are named by their digests; give its \
                       fingerprint, or --hub ORG/NAME[@REVISION]";
        return Err(Error::file(opened.root(), problem));
    }
    let plain = found.iter().filter(|listed| listed.blob.is_none());
    let not_examined = plain.map(|listed| {
        format!("{} is no link to a file of the cache: nothing says what it should hold", printable(&listed.path))
    });
    let mut differences: Vec<Difference> = problems.into_iter().map(damaged).collect();
    differences.extend(each(opened, &blobs, progress, |listed, blob, content| blob.damage_of(listed.bytes, content))?);
    differences.sort_by(|a, b| path(a).cmp(path(b)));
    Ok(PublishedVerification {
        passed: differences.is_empty(),
        not_examined: not_examined.collect(),
        repository: None,
        commit: None,
        files: blobs.len(),
        bytes: blobs.iter().map(|(listed, _)| listed.bytes).sum(),
        differences,
        not_here: Vec::new(),
    })
}

/// What is wrong with files, each read beside what it should be.
fn each<T: Sync>(
    opened: &Opened,
    pairs: &[(&Listed, &T)],
    progress: &dyn Progress,
    check: impl Fn(&Listed, &T, File) -> Result<Option<String>> + Sync,
) -> Result<Vec<Difference>> {
    progress.begin("files", pairs.iter().map(|(listed, _)| listed.bytes).sum(), "bytes");
    let mut order: Vec<&(&Listed, &T)> = pairs.iter().collect();
    // The largest first, so that none is left to one core at the end.
    order.sort_by_key(|(listed, _)| Reverse(listed.bytes));
    let one = |(listed, expected): &(&Listed, &T)| {
        progress.advance(listed.bytes)?;
        let full = opened.base().join(&listed.path);
        let content = files::open_regular(&full);
        let problem = content.and_then(|content| match StandIn::of_file(&content, &full)? {
            Some(holes) => Ok(Some(holes.to_string())),
            None => check(listed, expected, content),
        });
        // What it is instead comes before what it is not.
        let problem = match problem {
            Ok(Some(problem)) => stand_in(&full).map(|found| Some(found.map_or(problem, |found| found.to_string()))),
            other => other,
        };
        let difference = |problem| Difference::FileDamaged { path: listed.path.clone(), problem };
        Ok(match problem {
            Ok(problem) => problem.map(difference),
            Err(problem) => Some(Difference::NotExamined { path: listed.path.clone(), problem: problem.to_string() }),
        })
    };
    let found = order.into_par_iter().with_max_len(1).map(one).collect::<Result<Vec<_>>>()?;
    progress.end();
    Ok(found.into_iter().flatten().collect())
}

/// What cannot be read as a file is none that was published.
fn damaged((path, problem): (String, String)) -> Difference {
    Difference::FileDamaged { path, problem }
}

/// By which the differences are sorted.
fn path(difference: &Difference) -> &str {
    match difference {
        Difference::FileMissing { path }
        | Difference::FileExtra { path }
        | Difference::FileDamaged { path, .. }
        | Difference::NotExamined { path, .. } => path,
        _ => "",
    }
}
