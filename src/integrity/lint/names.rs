//! What names alone tell, of files that were left on the hub.

use super::check::Check;
use super::observation::{Found, Location, Observation};
use super::{contents, folder, index};
use crate::checkpoint::hub::{NotFetched, Origin};
use crate::checkpoint::stand_in::unfinished;
use crate::files::kind::is_pickle_name;
use std::path::Path;

/// What the names of files tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ByName<'a> {
    /// In order of file and check.
    pub observations: Vec<Observation>,
    /// The files whose names tell nothing.
    pub unknown: Vec<&'a NotFetched>,
}

/// Judges the files of a repository that are not in `root`, its snapshot, as lint judges such names in a folder.
pub fn by_name<'a>(origin: &'a Origin, root: &Path) -> ByName<'a> {
    let mut found = Found::default();
    let mut unknown = Vec::new();
    for file in &origin.not_fetched {
        let location = Location::file(&file.path);
        let before = found.observations.len();
        folder::by_name(&location, &mut found);
        if let Some(whole) = unfinished(&file.path).filter(|_| found.observations.len() == before) {
            let message = format!("is what a download of {whole:?} leaves that was not finished; it was not fetched");
            found.say(Check::UnfinishedDownload, location.clone(), message);
        }
        if let Some((check, message)) = told(&file.path, root) {
            found.say(check, location.clone(), message);
        }
        if found.observations.len() == before {
            unknown.push(file);
        }
        folder::odd_name(file.path.rsplit('/').next().unwrap_or_default(), &location, &mut found);
    }
    ByName { observations: found.finish().0, unknown }
}

fn told(name: &str, root: &Path) -> Option<(Check, &'static str)> {
    if contents::is_openvino(name, &|xml| root.join(xml).exists()) {
        return Some((Check::ConvertedModel, "is a conversion of the model by its name, which was not examined"));
    }
    if is_pickle_name(name) {
        return Some((Check::PickleFile, "is a pickle by its name; it was not fetched"));
    }
    // What holds the model is here.
    match !name.contains('/') && name.ends_with(".safetensors") {
        true if index::is_consolidated(name) => {
            Some((Check::ConsolidatedWeights, "lies beside the weights that other loaders take; it was not fetched"))
        }
        true => Some((Check::StrayWeights, "is not one of the files that hold the model; it was not fetched")),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::hub::State;

    #[test]
    fn names_are_judged_as_in_a_folder() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("openvino")).unwrap();
        std::fs::write(root.path().join("openvino/model.xml"), "").unwrap();
        let cases = [
            ("consolidated.safetensors", Some(Check::ConsolidatedWeights)),
            ("model-f32.safetensors", Some(Check::StrayWeights)),
            ("unet/model.safetensors", None),
            ("pytorch_model.bin", Some(Check::PickleFile)),
            ("original/weights.PT.gz", Some(Check::PickleFile)),
            ("openvino/model.bin", Some(Check::ConvertedModel)),
            ("onnx/model.onnx", Some(Check::ConvertedModel)),
            ("tf_model.h5", Some(Check::KerasFile)),
            ("model-Q4_K_M.gguf", Some(Check::OtherWeights)),
            ("lib/libfast.so", Some(Check::NativeCode)),
            ("model.safetensors.incomplete", Some(Check::UnfinishedDownload)),
            ("recordings.dat", None),
            ("read\u{202e}me.dat", None),
        ];
        for (path, check) in cases {
            let not_fetched = vec![NotFetched { path: path.into(), bytes: None }];
            let (repository, revision, commit) = ("org/tiny".into(), "main".into(), "0".repeat(40));
            let origin =
                Origin { repository, revision, commit, state: State::Current, not_fetched, headers: Vec::new() };
            let found = by_name(&origin, root.path());
            let checks: Vec<Check> = found.observations.iter().map(|o| o.check).collect();
            let odd = path.contains('\u{202e}').then_some(Check::OddFileName);
            assert_eq!(checks, check.into_iter().chain(odd).collect::<Vec<_>>(), "{path}");
            assert_eq!(found.unknown.len(), usize::from(check.is_none()), "{path}");
        }
    }
}
