//! Whether what is examined stays as it is meanwhile. Files are looked at more than once: what the parts of an
//! examination saw is one checkpoint's only if none of them changed in between.

use crate::checkpoint::walk::{ENVIRONMENT, is_left_out, walk};
use crate::error::{Error, Result};
use crate::files::Stamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Examines a model's files, or its folder, and refuses what came of that where a file changed, came or went meanwhile.
///
/// # Errors
/// As said; also those of `examine`, and where a folder cannot be read.
pub fn unchanged<T>(places: &[impl AsRef<Path>], examine: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = Stamps::of(places)?;
    let examined = examine();
    if !matches!(examined, Err(Error::Interrupted)) {
        // Before anything that may have come of it.
        before.check(places)?;
    }
    examined
}

/// A model's file, or all files of its folder that are examined, as they are.
struct Stamps(BTreeMap<PathBuf, Option<Stamp>>);

impl Stamps {
    fn of(places: &[impl AsRef<Path>]) -> Result<Stamps> {
        let mut paths = Vec::new();
        for place in places.iter().map(AsRef::as_ref) {
            let skip = |path: &str| is_left_out(place, path) || path == ENVIRONMENT && place.join(path).is_dir();
            match place.is_dir() {
                true => paths.extend(walk(place, &skip)?.into_iter().map(|entry| place.join(entry.path))),
                false => paths.push(place.to_owned()),
            }
        }
        let stamp = |path: &Path| std::fs::metadata(path).ok().and_then(|about| Stamp::of(&about));
        Ok(Stamps(paths.into_iter().map(|path| (path.clone(), stamp(&path))).collect()))
    }

    fn check(&self, places: &[impl AsRef<Path>]) -> Result<()> {
        let Stamps(now) = Stamps::of(places)?;
        let changed = self.0.iter().find(|(path, was)| now.get(*path) != Some(was)).map(|(path, _)| path);
        match changed.or_else(|| now.keys().find(|path| !self.0.contains_key(*path))) {
            None => Ok(()),
            Some(path) => {
                let problem = "was changed while the model was examined, so nothing is said of it; try again when \
                               nothing writes to it";
                Err(Error::file(path, problem))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{remove_file, rename, write};

    #[test]
    fn what_changes_meanwhile_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at(".venv")).unwrap();
        let cases: [(&str, &dyn Fn()); 6] = [
            ("", &|| {}),
            ("", &|| write(at(".venv/other"), "none of the model's").unwrap()),
            ("file", &|| write(at("file"), "longer").unwrap()),
            ("file", &|| rename(at("same"), at("file")).unwrap()),
            ("file", &|| remove_file(at("file")).unwrap()),
            ("new", &|| write(at("new"), "").unwrap()),
        ];
        for (changed, change) in cases {
            write(at("file"), "was").unwrap();
            write(at("same"), "was").unwrap();
            let examine = || {
                change();
                Ok(())
            };
            let said = unchanged(&[folder.path()], examine).map_err(|e| e.to_string());
            match changed {
                "" => assert_eq!(said, Ok(())),
                file => {
                    let error = said.unwrap_err();
                    assert!(error.contains(&format!("{file}: was changed while the model was examined")), "{error}");
                }
            }
        }
        let stopped = || {
            write(at("newer"), "").unwrap();
            Err::<(), _>(Error::Interrupted)
        };
        assert!(matches!(unchanged(&[folder.path()], stopped), Err(Error::Interrupted)));
    }
}
