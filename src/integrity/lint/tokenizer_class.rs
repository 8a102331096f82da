//! The class of tokenizers that a config names, against the tokenizer.json: transformers builds some classes' tokenizers
//! by code of their own, which may take little or nothing of that file.

use super::check::Check;
use super::observation::{Found, Location};
use super::pipeline::{Pipeline, kind, steps};
use super::vocabulary::read;
use crate::checkpoint::python_json::Part;
use crate::checkpoint::{Opened, TOKENIZER, TOKENIZER_CONFIG};
use serde_json::{Map, Value, json};

/// What a tokenizer.json is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// BPE over GPT-2's characters for bytes.
    Bytes,
    /// BPE as SentencePiece has it.
    Pieces,
    /// BPE whose words end in a mark.
    Words,
    Unigram,
    WordPiece,
    WordLevel,
}

use Form::{Bytes, Pieces, Unigram, WordPiece, Words};

/// Classes of the transformers library, without `Fast` and `Tokenizer`, and the forms that published models have beside
/// them. Those that are named here for none read other files. Any form may stand beside a class that is not named:
/// transformers builds it by tokenizer.json alone, or does not know it.
const CLASSES: &[(&[&str], &[Form])] = &[
    (&["Llama"], &[Bytes, Pieces, Unigram]),
    (&["CodeLlama", "Gemma"], &[Pieces]),
    (&["GPT2", "GPTNeoX", "Qwen2", "Qwen3_5", "CodeGen", "Cohere", "Bloom", "Whisper"], &[Bytes]),
    (&["Roberta", "Bart", "Longformer", "LED", "Blenderbot", "Deberta", "Mvp", "Luke", "LayoutLMv3"], &[Bytes]),
    (&["T5", "MT5", "Albert", "FNet", "XLMRoberta", "XLNet", "XGLM", "Camembert", "Barthez", "BigBird"], &[Unigram]),
    (
        &["MBart", "MBart50", "Pegasus", "RemBert", "Reformer", "Udop", "LayoutXLM", "DebertaV2", "Cpm"],
        &[Unigram, Pieces],
    ),
    (&["Nllb", "SeamlessM4T"], &[Unigram, Pieces]),
    (&["CLIP", "OpenAIGPT", "Herbert"], &[Words]),
    (
        &["Bert", "DistilBert", "Electra", "ConvBert", "Funnel", "Lxmert", "MobileBert", "MPNet", "Splinter"],
        &[WordPiece],
    ),
    (&["DPRContextEncoder", "DPRQuestionEncoder", "DPRReader", "LayoutLM", "LayoutLMv2", "RetriBert"], &[WordPiece]),
    (&["RoFormer", "SqueezeBert", "Realm"], &[WordPiece]),
    (&["ByT5", "MyT5", "Canine", "Perceiver", "Bartpho", "BertGeneration", "BertJapanese", "Bertweet", "BioGpt"], &[]),
    (&["BlenderbotSmall", "CTRL", "Clvp", "CpmAnt", "Dia", "Esm", "FSMT", "FastSpeech2Conformer", "Flaubert"], &[]),
    (&["GPTNeoXJapanese", "GPTSw3", "Jukebox", "M2M100", "MLuke", "Marian", "Mgpstr", "PLBart", "Phobert"], &[]),
    (&["Pop2Piano", "ProphetNet", "RoCBert", "Siglip", "Speech2Text", "SpeechT5", "Tapas", "TransfoXL", "Vits"], &[]),
    (&["Wav2Vec2CTC", "Wav2Vec2PhonemeCTC", "Wav2Vec2", "XLM", "BertLegacy"], &[]),
];

/// Holds the class that tokenizer_config.json, or else config.json, names against the tokenizer.json.
pub(super) fn examine(opened: &Opened, pipeline: &Pipeline, found: &mut Found) {
    let tokenizer_config: Map<String, Value> = read(opened, TOKENIZER_CONFIG).unwrap_or_default();
    let config = opened.config().ok().flatten().map(|config| config.map());
    let of = |file: &'static str, map: &Map<String, Value>| {
        Some((file, map.get("tokenizer_class")?.as_str().filter(|class| !class.is_empty())?.to_owned()))
    };
    let class = of(TOKENIZER_CONFIG, &tokenizer_config).or_else(|| of("config.json", config?));
    let Some((file, class)) = class else { return };
    let name = class.strip_suffix("Fast").unwrap_or(&class).strip_suffix("Tokenizer").unwrap_or_default();
    let Some((_, forms)) = CLASSES.iter().find(|(classes, _)| classes.contains(&name)) else { return };
    let Some(form) = form(pipeline).filter(|form| !forms.contains(form)) else { return };
    let described = form.as_str();
    let message = format!("has transformers build a {class}, which {TOKENIZER} does not describe: that is {described}");
    found.add(Check::OtherTokenizer, Location::file(file), message, json!({"tokenizer_class": class}));
}

/// None of a model that is not known here.
fn form(pipeline: &Pipeline) -> Option<Form> {
    let Pipeline { normalizer, pre_tokenizer, decoder, model, .. } = pipeline;
    let model = model.as_ref()?;
    let is_bytes = |part: &Part| steps(&part.0).into_iter().any(|step| kind(step) == "ByteLevel");
    Some(match model.kind.as_str() {
        // CLIP's words are of bytes.
        "BPE" | "" if !model.end_of_word_suffix.as_deref().unwrap_or_default().is_empty() => Words,
        "BPE" | "" if [normalizer, pre_tokenizer, decoder].into_iter().any(is_bytes) => Bytes,
        "BPE" | "" => Pieces,
        "Unigram" => Unigram,
        "WordPiece" => WordPiece,
        "WordLevel" => Form::WordLevel,
        _ => return None,
    })
}

impl Form {
    fn as_str(self) -> &'static str {
        match self {
            Bytes => "BPE of bytes",
            Pieces => "BPE of pieces, as SentencePiece's",
            Words => "BPE of words",
            Unigram => "Unigram",
            WordPiece => "WordPiece",
            Form::WordLevel => "whole words",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(class: &str, tokenizer: &Value) -> Vec<(Check, String)> {
        let mut all = Vec::new();
        for file in [TOKENIZER_CONFIG, "config.json"] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(TOKENIZER), tokenizer.to_string()).unwrap();
            std::fs::write(folder.path().join(file), json!({"tokenizer_class": class}).to_string()).unwrap();
            let mut found = Found::default();
            let opened = Opened::folder_at(folder.path());
            let pipeline = Pipeline::of(&opened, None, &mut found).unwrap();
            examine(&opened, &pipeline, &mut found);
            all.extend(found.finish().0.into_iter().map(|o| (o.check, o.location.file)));
        }
        all
    }

    #[test]
    fn a_class_that_does_not_take_the_tokenizer_is_told() {
        let bytes = json!({"model": {"type": "BPE", "vocab": {}}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits"}, {"type": "ByteLevel"}]}});
        let pieces = json!({"model": {"type": "BPE", "vocab": {}, "byte_fallback": true}, "decoder": {"type": "Fuse"}});
        let unigram = json!({"model": {"type": "Unigram", "vocab": []}});
        let wordpiece = json!({"model": {"type": "WordPiece", "vocab": {}}});
        let clip =
            json!({"model": {"type": "BPE", "end_of_word_suffix": "</w>"}, "pre_tokenizer": {"type": "ByteLevel"}});
        // As published: Llama 3, R1's distillates, SmolLM2, Phi-2, Mistral, Gemma, T5, BERT, of custom code.
        for (class, tokenizer) in [
            ("PreTrainedTokenizerFast", &bytes),
            ("PreTrainedTokenizer", &unigram),
            ("TokenizersBackend", &wordpiece),
            ("LlamaTokenizerFast", &bytes),
            ("GPT2Tokenizer", &bytes),
            ("Qwen2Tokenizer", &bytes),
            ("CodeGenTokenizer", &bytes),
            ("LlamaTokenizer", &pieces),
            ("GemmaTokenizer", &pieces),
            ("T5Tokenizer", &unigram),
            ("BertTokenizer", &wordpiece),
            ("CLIPTokenizer", &clip),
            ("InternLM2Tokenizer", &pieces),
            ("", &bytes),
        ] {
            assert_eq!(told(class, tokenizer), [], "{class}");
        }
        for (class, tokenizer) in [
            ("ByT5Tokenizer", &bytes),
            ("CanineTokenizer", &pieces),
            ("PerceiverTokenizer", &wordpiece),
            ("BertTokenizer", &bytes),
            ("BertTokenizerFast", &bytes),
            ("CLIPTokenizer", &bytes),
            ("GemmaTokenizerFast", &bytes),
            ("T5Tokenizer", &bytes),
            ("MyT5Tokenizer", &unigram),
            ("Qwen2Tokenizer", &pieces),
            ("LlamaTokenizer", &wordpiece),
        ] {
            let expected = [TOKENIZER_CONFIG, "config.json"].map(|file| (Check::OtherTokenizer, file.to_owned()));
            assert_eq!(told(class, tokenizer), expected, "{class}");
        }
    }
}
