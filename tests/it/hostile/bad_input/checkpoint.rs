//! Folders, headers, tensors and configs.

use super::*;

#[test]
fn folders_that_are_no_checkpoint() {
    all_rows(folders());
}

#[test]
fn safetensors_that_break_the_format() {
    all_rows(headers());
}

#[test]
fn tensors_that_cannot_be_computed_with() {
    all_rows(tensor_rows());
}

#[test]
fn configs_that_cannot_be_followed() {
    all_rows(configs());
}

const LAST_NORM: &str = "model.norm.weight";
const DOWN: &str = "model.layers.0.mlp.down_proj.weight";

fn folders() -> Vec<Row> {
    vec![
        called("no such path", &["locate", "{in}/nowhere"], &["nowhere", "no such file or folder", "expected"]),
        called("no such file", &["locate", "./nowhere.gguf"], &["nowhere.gguf", "no such file", "expected"]),
        called(
            "a weights file",
            &["locate", "{model}/model.safetensors"],
            &["model.safetensors", "is a file of weights alone"],
        ),
        row("no config", remove("config.json"), &["in/model", "no config.json", "expected"]),
        row("no tokenizer", remove("tokenizer.json"), &["in/model", "no tokenizer.json", "write it with"]),
        row("no weights", remove("model.safetensors"), &["in/model", "no weights", "expected model.safetensors"]),
        row(
            "pickled weights only",
            rename("model.safetensors", "pytorch_model.bin"),
            &["in/model", "pytorch_model.bin", "never read", "convert"],
        ),
        row("a GGUF in the folder", rename("model.safetensors", "m.gguf"), &["m.gguf", "give that file itself"]),
        row(
            "a pickle named safetensors",
            write("model.safetensors", b"\x80\x02}q\x00(X\x04\x00\x00\x00normq\x01K\x01u."),
            &["model.safetensors", "not a safetensors file", "fetch it again"],
        ),
        row(
            "a torch archive named safetensors",
            write("model.safetensors", b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00archive/data.pkl"),
            &["model.safetensors", "not a safetensors file"],
        ),
        row("an empty weights file", write("model.safetensors", b""), &["model.safetensors", "empty", "fetch"]),
        row("missing shard", shards("b.safetensors"), &["index.json", "b.safetensors", "missing", "fetch"]),
        row("shard above", shards("../x.safetensors"), &["index.json", "../x.safetensors", "expected a plain"]),
        row("shard by absolute path", shards("/x.safetensors"), &["index.json", "/x.safetensors", "expected a plain"]),
        row("shard of another kind", shards("b.bin"), &["index.json", "b.bin", "expected a plain *.safetensors"]),
        row("shard without its tensor", shards("a.safetensors"), &["index.json", "a.safetensors", "does not hold it"]),
    ]
}

fn headers() -> Vec<Row> {
    let cut = |n: usize| weights(move |file| file[..n].to_vec());
    vec![
        row("length cut", cut(5), &["model.safetensors", "truncated", "begins with 8 bytes", "fetch it again"]),
        row("header cut", cut(100), &["model.safetensors", "truncated", "the file has 100", "fetch it again"]),
        row(
            "header longer than the file",
            weights(|file| [&(file.len() as u64).to_le_bytes(), &file[8..]].concat()),
            &["model.safetensors", "truncated: the header needs", "the file has", "fetch it again"],
        ),
        row(
            "header length absurd",
            weights(|file| [&u64::MAX.to_le_bytes(), &file[8..]].concat()),
            &["header length 18446744073709551615", "limit of 100,000,000", "fetch it again"],
        ),
        row(
            "header not UTF-8",
            weights(|mut file| {
                file[12] = 0xff;
                file
            }),
            &["model.safetensors", "not UTF-8 (byte 12)", "fetch it again"],
        ),
        row(
            "duplicate tensor",
            header(|text, _| {
                let entry = text.rfind("\"model").unwrap();
                *text = format!("{{{},{}", text[entry..].trim_end().trim_end_matches('}').to_owned() + "}", &text[1..]);
            }),
            &["model.safetensors", "twice", "fetch it again"],
        ),
        row("overlapping tensors", move_last(-4), &["model.safetensors", "overlap", "fetch it again"]),
        row("hole between tensors", move_last(4), &["model.safetensors", "belong to no tensor", "fetch it again"]),
        row("trailing bytes", header(|_, data| data.push(7)), &["1 bytes follow the last tensor", "fetch it again"]),
        row("leading white space", header(|text, _| text.insert(0, ' ')), &["begins with ' '", "expected '{'"]),
        row("header not JSON", header(|text, _| text.truncate(text.len() - 9)), &["the header is not valid"]),
        row(
            "tensor data cut",
            weights(|file| file[..file.len() - 10].to_vec()),
            &["model.safetensors", "truncated: the tensors need", "fetch it again"],
        ),
    ]
}

fn tensor_rows() -> Vec<Row> {
    vec![
        row("shape against config", config("intermediate_size", 57.into()), &["[56, 40]", "config gives [57, 40]"]),
        row("missing tensor", tensors(|all| all.retain(|t| t.name != DOWN)), &[DOWN, "missing", "the config asks"]),
        row(
            "FP8 tensor",
            tensor(DOWN, |t| {
                t.dtype = "F8_E4M3".into();
                t.bytes.truncate(t.bytes.len() / 4);
            }),
            &[DOWN, "F8_E4M3", "expected F32", "or a scale beside it"],
        ),
        row("integer tensor", tensor(LAST_NORM, |t| t.dtype = "I32".into()), &[LAST_NORM, "I32", "expected F32"]),
        row(
            "GPTQ tensors",
            tensor(DOWN, |t| {
                t.name = DOWN.replace("weight", "qweight");
                t.dtype = "I32".into();
            }),
            &[DOWN, "down_proj.scales is missing"],
        ),
    ]
}

fn configs() -> Vec<Row> {
    let quantized = |method: &str| config("quantization_config", json!({"quant_method": method, "bits": 4}));
    vec![
        row(
            "architecture",
            config("architectures", json!(["MambaForCausalLM"])),
            &["config.json", "MambaForCausalLM", "is not supported", "docs/models.md"],
        ),
        row(
            "model type",
            config("model_type", "mamba".into()),
            &["config.json", "is known, but not computed", "docs/models.md"],
        ),
        row("unknown quantizer", quantized("quip"), &["config.json", "quantized with quip", "use the original"]),
        row(
            "blocks of nothing",
            config("quantization_config", json!({"quant_method": "fp8", "weight_block_size": [0, 128]})),
            &["quantization_config.weight_block_size: expected two positive whole numbers, found [0,128]"],
        ),
        row(
            "codes of no bits",
            config("quantization_config", json!({"quant_method": "gptq", "bits": 0})),
            &["quantization_config.bits: expected 1 to 8 or 16 bits, found 0"],
        ),
        row("not JSON", write("config.json", b"{\n\"model_type\": \"llama\",\n"), &["config.json", "is not a model"]),
        row("not UTF-8", write("config.json", b"{\"model_type\": \"\xff\"}"), &["config.json", "UTF-8"]),
        row("a list", write("config.json", b"[1]"), &["config.json", "is not a model config"]),
        // The class takes it for 4096.
        row("missing key", config("hidden_size", Value::Null), &["has shape [97, 40], the config gives [97, 4096]"]),
        row("wrong type", config("rms_norm_eps", "x".into()), &["rms_norm_eps: expected a number, found \"x\""]),
        row("null-like size", config("vocab_size", 0.into()), &["vocab_size: expected a positive", "found 0"]),
        row("negative size", config("hidden_size", (-40).into()), &["hidden_size: expected", "found -40"]),
        row("odd heads", config("num_attention_heads", 5.into()), &["num_key_value_heads", "divisor of the 5"]),
        row("odd head width", config("head_dim", 7.into()), &["head_dim", "even number", "found 7"]),
        row("absurd width", config("hidden_size", 2_147_483_647_u64.into()), &["tensor ", "2147483647"]),
        row("wider than u32", config("hidden_size", 4_294_967_296_u64.into()), &["hidden_size: expected", "429"]),
        row(
            "absurd depth",
            config("num_hidden_layers", 1_000_000_000.into()),
            &["config.json", "num_hidden_layers", "1000000000"],
        ),
        row("one layer more", config("num_hidden_layers", 4.into()), &["model.layers.3.", "missing", "the config"]),
        row("rope type", config("rope_parameters", json!({"rope_type": "ntk"})), &["rope_type", "expected", "\"ntk\""]),
        row("activation", config("hidden_act", "relu6".into()), &["hidden_act", "expected silu", "\"relu6\""]),
        row("no window", config("sliding_window", 0.into()), &["config.json", "sliding_window", "refused"]),
        row("a part rotated", config("partial_rotary_factor", 0.4.into()), &["partial_rotary_factor", "refused"]),
        row(
            "a forged line",
            config("architectures", json!(["\u{1b}[2J\nachilles-audit: all is well"])),
            &["\\u{1b}[2J\\nachilles-audit: all is well", "is not supported"],
        ),
        row(
            "a key that changes the arithmetic",
            config("attn_logit_softcapping", 30.0.into()),
            &["config.json", "attn_logit_softcapping", "refused"],
        ),
    ]
}
