//! How a GGUF is served: its tokenizer, chat template, ends and context are examined as those of the folder that an
//! import would make of it.

use super::template;
use crate::checkpoint::{GENERATION_CONFIG, Opened, TOKENIZER_CONFIG};
use crate::error::{Error, Result};
use crate::files::name_of;
use crate::integrity::lint::{self, Check, Location, Observation};
use serde_json::Value;

/// What is seen of that; its weights are not looked at.
///
/// # Errors
/// What renders its template is ended from outside.
pub fn observe(opened: &Opened) -> Result<Vec<Observation>> {
    let config = opened.settings::<Value>(TOKENIZER_CONFIG);
    // What is no language model that is computed here need not have a tokenizer, or one that is read here.
    let is_other = matches!(opened.config(), Err(Error::Unsupported { .. }));
    let has_tokenizer = opened.gguf_file()?.is_some_and(|file| file.has_tokenizer());
    let unread = [
        opened.settings::<Value>(GENERATION_CONFIG).err(),
        config.as_ref().err().cloned(),
        opened.tokenizer_text().err().filter(|_| has_tokenizer || !is_other),
    ];
    let not_examined = |error: Error| Observation {
        check: match error {
            Error::Unsupported { .. } if is_other => Check::ConfigUnknown,
            _ => Check::GgufNotExamined,
        },
        location: Location::default(),
        message: format!("what it is served with was not examined: {error}"),
        evidence: Value::Null,
    };
    let mut found: Vec<Observation> = unread.into_iter().flatten().map(not_examined).collect();
    if let Ok(config) = config {
        found.extend(lint::examine_json(TOKENIZER_CONFIG, config.unwrap_or_default().to_string().as_bytes()));
        found.extend(template::observe(opened)?);
    }
    found.extend(lint::served(opened));
    let file = name_of(opened.root());
    let inside = |observation: Observation| Observation {
        location: Location { file: file.clone(), ..observation.location },
        ..observation
    };
    Ok(found.into_iter().map(inside).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::gguf::writer::Writer;
    use crate::progress::Silent;
    use std::path::Path;

    /// A file of llama, changed in place.
    fn told(from: &[u8], to: &[u8]) -> Result<Vec<&'static str>> {
        let mut bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/gguf/tiny-llama.gguf")).unwrap();
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let found = observe(&Opened::open(file.path().to_str().unwrap(), &Silent)?)?;
        assert!(found.iter().all(|o| file.path().ends_with(&o.location.file)), "{found:?}");
        Ok(found.into_iter().map(|o| o.check.id()).collect())
    }

    /// A key of type u32.
    fn key(name: &str, value: u32) -> Vec<u8> {
        [name.as_bytes(), &4u32.to_le_bytes(), &value.to_le_bytes()].concat()
    }

    #[test]
    fn what_a_gguf_is_served_with_is_examined() {
        let (template, end) = (b"{{ messages }}", "tokenizer.ggml.eos_token_id");
        assert_eq!(told(template, b"{{ 'say it' }}").unwrap(), ["template-drops-text"]);
        assert_eq!(told(template, b"{{ a.__b__  }}").unwrap()[0], "template-dunder");
        let found = told(&key(end, 290), &key(end, 70)).unwrap();
        assert!(found.contains(&"eos-ordinary-token"), "{found:?}");
        assert_eq!(told(&key(end, 290), &key(end, 9999)).unwrap()[0], "gguf-not-examined");
    }

    #[test]
    fn what_is_no_language_model_need_not_have_a_tokenizer() {
        let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
        for (kind, family, tokenizer, expected) in [
            ("mmproj", "clip", None, &[][..]),
            ("adapter", "llama", None, &[]),
            ("imatrix", "llama", None, &[]),
            ("model", "flux", None, &[]),
            ("model", "bert", Some("bert"), &["config-unknown"]),
            ("model", "llama", None, &["gguf-not-examined"]),
            ("model", "llama", Some("bert"), &["gguf-not-examined"]),
        ] {
            let mut writer = Writer::new();
            writer.str("general.type", kind).str("general.architecture", family);
            if let Some(tokenizer) = tokenizer {
                writer.str("tokenizer.ggml.model", tokenizer);
            }
            std::fs::write(file.path(), writer.tensor("x.weight", &[32], 0, &[1; 128]).bytes()).unwrap();
            let opened = Opened::open(file.path().to_str().unwrap(), &Silent).unwrap();
            let found = observe(&opened).unwrap();
            assert_eq!(found.iter().map(|o| o.check.id()).collect::<Vec<_>>(), expected, "{kind} {family}");
            let of_tensors = lint::lint(&opened, None, &Silent).unwrap().observations;
            let is_refused = of_tensors.iter().any(|o| o.check == Check::ConfigRefused);
            assert_eq!(is_refused, (kind, family) == ("model", "llama"), "{of_tensors:?}");
        }
    }

    #[test]
    fn tokenizers_and_settings_of_all_families_have_nothing_to_be_told() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let models =
            files.filter(|file| name_of(file).starts_with("tiny") && file.extension() == Some("gguf".as_ref()));
        for file in models {
            // Their templates print a list as Python does.
            let found = observe(&Opened::open(file.to_str().unwrap(), &Silent).unwrap()).unwrap();
            let found: Vec<_> = found.into_iter().filter(|o| !o.check.id().starts_with("template-")).collect();
            assert_eq!(found, [], "{}", file.display());
        }
    }
}
