//! What quantizers are told to leave alone, in their own forms.

use crate::locate::{IgnoreList, IgnoredModule};
use serde_json::json;

/// A line of an llm-compressor recipe, in YAML. Within a wrapper a module is named by the end of its path, as loaders
/// differ in what comes before it; but towers of images and sound have layers of the same names.
pub fn llm_compressor(list: &IgnoreList) -> String {
    let entry = |module: &IgnoredModule| match (module.is_wrapped, module.path.strip_prefix("model.")) {
        (false, _) => module.path.clone(),
        (true, Some(end)) => format!(r"re:.*language_model\.(model\.)?{}$", end.replace('.', r"\.")),
        (true, None) => format!("re:.*{}$", module.path.replace('.', r"\.")),
    };
    let entries: Vec<String> = list.modules.iter().map(entry).collect();
    format!("ignore: {}\n", json!(entries))
}

/// Arguments of llama-quantize that keep these tensors in F16, on one line; the modules that have no name there.
pub fn llama_quantize(list: &IgnoreList) -> (String, Vec<String>) {
    let (mut arguments, mut unnamed) = (Vec::<String>::new(), Vec::new());
    for module in &list.modules {
        match &module.gguf {
            None => unnamed.push(format!("{}: no entry: its name in a GGUF is not known", module.path)),
            Some(name) => {
                let argument = format!("--tensor-type {name}=f16");
                // Experts share one.
                if !arguments.contains(&argument) {
                    arguments.push(argument);
                }
            }
        }
    }
    let line = arguments.join(" ");
    (if line.is_empty() { line } else { line + "\n" }, unnamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_paths_are_told_by_their_ends_and_experts_share_a_tensor() {
        let module = |path: &str, is_wrapped: bool, gguf: Option<&str>| IgnoredModule {
            path: path.into(),
            is_wrapped,
            gguf: gguf.map(Into::into),
        };
        let list = IgnoreList {
            modules: vec![
                module("model.layers.1.mlp.down_proj", true, None),
                module("lm_head", true, None),
                module("model.layers.3.mlp.experts.5.down_proj", false, Some("blk.3.ffn_down_exps")),
                module("model.layers.3.mlp.experts.7.down_proj", false, Some("blk.3.ffn_down_exps")),
            ],
            left: Vec::new(),
        };
        let expected = r#"ignore: ["re:.*language_model\\.(model\\.)?layers\\.1\\.mlp\\.down_proj$","re:.*lm_head$","model.layers.3.mlp.experts.5.down_proj","model.layers.3.mlp.experts.7.down_proj"]"#;
        assert_eq!(llm_compressor(&list), format!("{expected}\n"));
        let unnamed = |path: &str| format!("{path}: no entry: its name in a GGUF is not known");
        assert_eq!(
            llama_quantize(&list),
            (
                "--tensor-type blk.3.ffn_down_exps=f16\n".to_owned(),
                vec![unnamed("model.layers.1.mlp.down_proj"), unnamed("lm_head")]
            )
        );
        assert_eq!(llm_compressor(&IgnoreList::default()), "ignore: []\n");
        assert_eq!(llama_quantize(&IgnoreList::default()), (String::new(), Vec::new()));
    }
}
