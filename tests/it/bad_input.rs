//! Whatever is wrong with what it is given: one clear line, exit code 2, nothing written, no panic.

use crate::tiny::{Place, Tensor, join, load, save, split, wait};
use serde_json::{Map, Value, json};
use std::path::Path;

/// What is done to the good model folder.
type Make = Box<dyn Fn(&Path)>;

struct Row {
    name: &'static str,
    make: Make,
    /// After the subcommand; `[]` is `locate {model}`.
    args: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    /// What the line names.
    says: &'static [&'static str],
    /// clap's own message may have several lines.
    usage: bool,
}

fn row(name: &'static str, make: Make, says: &'static [&'static str]) -> Row {
    Row { name, make, args: &["locate", "{model}"], env: &[], says, usage: false }
}

fn called(name: &'static str, args: &'static [&'static str], says: &'static [&'static str]) -> Row {
    Row { args, ..row(name, nothing(), says) }
}

fn usage(name: &'static str, args: &'static [&'static str], says: &'static [&'static str]) -> Row {
    Row { usage: true, ..called(name, args, says) }
}

fn nothing() -> Make {
    Box::new(|_| {})
}

fn remove(file: &'static str) -> Make {
    Box::new(move |dir| std::fs::remove_file(dir.join(file)).unwrap())
}

fn write(file: &'static str, bytes: &'static [u8]) -> Make {
    Box::new(move |dir| std::fs::write(dir.join(file), bytes).unwrap())
}

fn rename(from: &'static str, to: &'static str) -> Make {
    Box::new(move |dir| std::fs::rename(dir.join(from), dir.join(to)).unwrap())
}

/// config.json with `key` set, or removed where the value is null.
fn config(key: &'static str, value: Value) -> Make {
    Box::new(move |dir| {
        let path = dir.join("config.json");
        let mut map: Map<String, Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        match &value {
            Value::Null => map.remove(key),
            value => map.insert(key.into(), value.clone()),
        };
        std::fs::write(path, serde_json::to_vec_pretty(&map).unwrap()).unwrap();
    })
}

/// The bytes of model.safetensors, changed.
fn weights(change: impl Fn(Vec<u8>) -> Vec<u8> + 'static) -> Make {
    Box::new(move |dir| {
        let path = dir.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path, change(bytes)).unwrap();
    })
}

/// Its header and data, changed.
fn header(change: impl Fn(&mut String, &mut Vec<u8>) + 'static) -> Make {
    weights(move |file| {
        let (mut header, mut data) = split(&file);
        change(&mut header, &mut data);
        join(header.as_bytes(), &data)
    })
}

/// The data_offsets of its last tensor moved by some bytes.
fn move_last(by: i64) -> Make {
    header(move |text, data| {
        let end = format!(",{}]", data.len());
        let at = text.find(&end).unwrap();
        let from = text[..at].rfind('[').unwrap();
        let begin: i64 = text[from + 1..at].parse().unwrap();
        let moved = format!("[{},{}]", begin + by, data.len() as i64 + by);
        text.replace_range(from..at + end.len(), &moved);
        data.resize((data.len() as i64 + by) as usize, 0);
    })
}

/// Its tensors, changed.
fn tensors(change: impl Fn(&mut Vec<Tensor>) + 'static) -> Make {
    weights(move |file| {
        let mut all = load(&file);
        change(&mut all);
        save(&all)
    })
}

/// The tensor `name`, changed.
fn tensor(name: &'static str, change: impl Fn(&mut Tensor) + 'static) -> Make {
    tensors(move |all| change(all.iter_mut().find(|t| t.name == name).unwrap()))
}

/// Two shards and an index in which the second one is called `second`.
fn shards(second: &'static str) -> Make {
    Box::new(move |dir| {
        let single = dir.join("model.safetensors");
        let all = load(&std::fs::read(&single).unwrap());
        std::fs::remove_file(single).unwrap();
        let (a, b) = all.split_at(all.len() / 2);
        std::fs::write(dir.join("a.safetensors"), save(a)).unwrap();
        // What the index must not lead to is there.
        std::fs::write(dir.join("../x.safetensors"), save(b)).unwrap();
        let named = |part: &[Tensor], shard: &str| -> Vec<(String, Value)> {
            part.iter().map(|t| (t.name.clone(), shard.into())).collect()
        };
        let map: Map<String, Value> = [named(a, "a.safetensors"), named(b, second)].concat().into_iter().collect();
        let index = json!({"metadata": {}, "weight_map": map}).to_string();
        std::fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    })
}

/// A consistent model whose MLPs alone have hundreds of gigabytes; its file is a hole.
fn larger_than_memory(dir: &Path) {
    let wide = 1_500_000_000_usize;
    config("intermediate_size", wide.into())(dir);
    let path = dir.join("model.safetensors");
    let mut entries = Map::new();
    let mut end = 0;
    for mut t in load(&std::fs::read(&path).unwrap()) {
        t.shape.iter_mut().filter(|d| **d == 56).for_each(|d| *d = wide);
        let from = end;
        end += t.shape.iter().product::<usize>() * 2;
        entries.insert(t.name, json!({"dtype": "BF16", "shape": t.shape, "data_offsets": [from, end]}));
    }
    let header = join(serde_json::to_string(&entries).unwrap().as_bytes(), &[]);
    std::fs::write(&path, &header).unwrap();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len((header.len() + end) as u64).unwrap();
}

const LAST_NORM: &str = "model.norm.weight";
const DOWN: &str = "model.layers.0.mlp.down_proj.weight";

fn folders() -> Vec<Row> {
    vec![
        called("no such path", &["locate", "{in}/nowhere"], &["nowhere", "no such file or folder", "expected"]),
        called("no such file", &["locate", "./nowhere.gguf"], &["nowhere.gguf", "no such file", "expected"]),
        called("a weights file", &["locate", "{model}/model.safetensors"], &["model.safetensors", "give the folder"]),
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
            &[DOWN, "F8_E4M3", "expected F32", "use the original"],
        ),
        row("integer tensor", tensor(LAST_NORM, |t| t.dtype = "I32".into()), &[LAST_NORM, "I32", "expected F32"]),
        row(
            "GPTQ tensors",
            tensor(DOWN, |t| {
                t.name = DOWN.replace("weight", "qweight");
                t.dtype = "I32".into();
            }),
            &["down_proj.qweight", "GPTQ", "use the original"],
        ),
    ]
}

fn configs() -> Vec<Row> {
    let quantized = |method: &str| config("quantization_config", json!({"quant_method": method, "bits": 4}));
    vec![
        row(
            "architecture",
            config("architectures", json!(["MambaForCausalLM"])),
            &["config.json", "MambaForCausalLM", "is not supported", "supported: ", "LlamaForCausalLM"],
        ),
        row("model type", config("model_type", "mamba".into()), &["config.json", "is not supported", "supported: "]),
        row("gptq", quantized("gptq"), &["config.json", "quantized with gptq", "use the original"]),
        row("awq", quantized("awq"), &["config.json", "quantized with awq", "use the original"]),
        row("fp8", quantized("fp8"), &["config.json", "quantized with fp8", "use the original"]),
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

fn texts() -> Vec<Row> {
    let text = |name, bytes, says| Row {
        make: write("text.txt", bytes),
        ..called(name, &["locate", "{model}", "--text-file", "{model}/text.txt"], says)
    };
    vec![
        row("tokenizer not JSON", write("tokenizer.json", b"{"), &["tokenizer.json", "is not a tokenizer"]),
        row(
            "tokenizer that names what it does not have",
            Box::new(|dir| {
                let path = dir.join("tokenizer.json");
                let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                tokenizer["post_processor"] = json!({"type": "TemplateProcessing", "single": [
                    {"SpecialToken": {"id": "<nowhere>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}});
                std::fs::write(path, tokenizer.to_string()).unwrap();
            }),
            &["tokenizer.json", "malformed"],
        ),
        row("tokenizer not UTF-8", write("tokenizer.json", b"\xff"), &["tokenizer.json", "UTF-8"]),
        row(
            "tokenizer of another kind",
            write("tokenizer.json", b"{\"a\":\n1}"),
            &["tokenizer.json", "not a tokenizer"],
        ),
        row(
            "ids beyond the vocabulary",
            Box::new(|dir| {
                let path = dir.join("tokenizer.json");
                let text = std::fs::read_to_string(&path).unwrap().replace("\"r\": 83", "\"r\": 830");
                std::fs::write(path, text).unwrap();
            }),
            &["token 830", "vocabulary of 97", "not this model's"],
        ),
        called("empty text", &["locate", "{model}", "--text", ""], &["the text is empty", "--text"]),
        called("white space", &["perplexity", "{model}", "--text", " \n\t "], &["the text is empty", "--text"]),
        called("one token", &["locate", "{model}", "--text", "a"], &["1 token", "needs two"]),
        text("empty text file", b"", &["the text is empty", "--text-file"]),
        text("text not UTF-8", b"caf\xe9 au lait", &["text.txt", "UTF-8"]),
        called("no text file", &["locate", "{model}", "--text-file", "{in}/no.txt"], &["no.txt", "is not there"]),
        called("a folder as text", &["locate", "{model}", "--text-file", "{in}"], &["/in", "directory"]),
    ]
}

fn settings() -> Vec<Row> {
    let mut rows = vec![
        called(
            "unknown neuron",
            &["perplexity", "{model}", "--neuron", "L7.mlp.down_proj:out:3"],
            &["model.layers.7.mlp.down_proj:out", "no such site", "L0 to L2", "mlp.down_proj"],
        ),
        called(
            "channel out of range",
            &["perplexity", "{model}", "--neuron", "L1.mlp.down_proj:out:40"],
            &["model.layers.1.mlp.down_proj:out:40", "40 channels, 0 to 39"],
        ),
        called(
            "unknown site",
            &["locate", "{model}", "--sites", "experts"],
            &["experts", "no module matches", "expected reference, linear, down_proj or a glob", "mlp.down_proj"],
        ),
        called(
            "beta not a number",
            &["perplexity", "{model}", "--neuron", "L1.mlp.down_proj:out:4", "--beta", "NaN"],
            &["beta is NaN", "expected a finite number"],
        ),
        called("epsilon 0", &["locate", "{model}", "--epsilon", "0"], &["epsilon is 0", "above 0"]),
        called("epsilon negative", &["locate", "{model}", "--epsilon=-1"], &["epsilon is -1", "above 0"]),
        called("epsilon NaN", &["locate", "{model}", "--epsilon", "NaN"], &["epsilon is NaN", "finite"]),
        called("alpha NaN", &["locate", "{model}", "--alpha", "NaN"], &["alpha is NaN", "finite"]),
        called("no samples", &["locate", "{model}", "--samples", "0"], &["samples is 0", "at least 1"]),
        called(
            "samples absurd",
            &["locate", "{model}", "--samples", "99999999999999"],
            &["samples is 99999999999999", "at most"],
        ),
        called("max-neurons 0", &["locate", "{model}", "--max-neurons", "0"], &["max-neurons is 0", "at least 1"]),
        called("output nowhere", &["locate", "{model}", "-o", "{out}/no/out.json"], &["out.json", "does not exist"]),
        called("output is a folder", &["locate", "{model}", "-o", "{out}"], &["/out", "is a folder", "name of a file"]),
        Row {
            make: Box::new(larger_than_memory),
            ..called(
                "larger than memory",
                &["locate", "{model}", "--stream"],
                &["of memory", "can be had", "free some"],
            )
        },
        row("larger than memory, unasked", Box::new(larger_than_memory), &["of memory", "can be had", "free some"]),
        Row {
            make: write("m.gguf", &[b'G'; 1000]),
            ..called("not a GGUF", &["locate", "{model}/m.gguf"], &["m.gguf"])
        },
        Row {
            make: Box::new(|dir| {
                // Version 3, 272 tensors, 33 keys, and then not what was announced.
                let counts = [272u64.to_le_bytes(), 33u64.to_le_bytes()].concat();
                let head = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &counts, &[0x5a; 976]].concat();
                std::fs::write(dir.join("m.gguf"), head).unwrap();
            }),
            ..called("truncated GGUF", &["locate", "{model}/m.gguf"], &["m.gguf"])
        },
        called(
            "hub unreachable",
            &["locate", "org/name"],
            &["org/name", "cannot reach http://127.0.0.1:9", "HF_ENDPOINT"],
        ),
        Row {
            env: &[("HF_HUB_OFFLINE", "1")],
            ..called("hub offline", &["locate", "org/name@v1"], &["org/name@v1", "HF_HUB_OFFLINE is set", "unset it"])
        },
        called("no hub id", &["locate", "a/b/c"], &["a/b/c", "no such file or folder", "hub id"]),
        usage("not a neuron", &["perplexity", "{model}", "--neuron", "L1.mlp"], &["L1.mlp", "expected MODULE:out"]),
        usage("bad glob", &["locate", "{model}", "--sites", "[a"], &["[a"]),
        usage("bad side", &["locate", "{model}", "--side", "up"], &["up", "expected in or out"]),
        usage("bad dtype", &["locate", "{model}", "--dtype", "f8"], &["f8", "expected f32"]),
        usage("bad device", &["locate", "{model}", "--device", "gpu"], &["gpu", "expected auto, cpu"]),
        usage("two texts", &["locate", "{model}", "--text", "a", "--text-file", "b"], &["cannot be used with"]),
        usage("no model", &["locate"], &["MODEL"]),
    ];
    if !cfg!(feature = "cuda") {
        let says = &["cuda:0", "built without it", "--features cuda"];
        rows.push(called("no CUDA in this build", &["locate", "{model}", "--device", "cuda:0"], says));
    }
    rows
}

/// A path below fixtures/oms.
macro_rules! oms {
    ($path:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/oms/", $path)
    };
}

fn signatures() -> Vec<Row> {
    const KEY: &str = oms!("keys/p256.pem");
    const PUBLIC: &str = oms!("keys/p256.pub.pem");
    const ROOT: &str = oms!("certificates/root.pem");
    let verified = |name, signature, says| {
        called(name, leak(&["verify-signature", "{model}", "--public-key", PUBLIC, "--signature", signature]), says)
    };
    let unsigned = |name, make, says| Row { make, ..called(name, &["sign", "{model}", "--private-key", KEY], says) };
    let with_key = |name, key, says| called(name, leak(&["sign", "{model}", "--private-key", key]), says);
    let sparse: Make = Box::new(|dir| std::fs::File::create(dir.join("big")).unwrap().set_len((64 << 20) + 1).unwrap());
    vec![
        with_key("no key", "{in}/no.pem", &["no.pem", "is not there"]),
        with_key("a folder as key", "{in}", &["/in", "expected a file"]),
        with_key("an encrypted key", oms!("keys/encrypted.pem"), &["encrypted.pem", "decrypt it first: openssl pkey"]),
        with_key(
            "an RSA key",
            oms!("keys/rsa.pem"),
            &["rsa.pem", "another kind of private key; expected an ECDSA key"],
        ),
        with_key("a public key", PUBLIC, &["p256.pub.pem", "holds a public key, expected a private one"]),
        with_key("no PEM", "{model}/config.json", &["config.json", "holds no private key in PEM form; expected"]),
        called("nothing to sign", &["sign", "{out}", "--private-key", KEY], &["/out", "holds no files to sign"]),
        called(
            "no such model",
            &["sign", "org/name", "--private-key", KEY],
            &["org/name", "no such file or folder; expected"],
        ),
        called(
            "no such shards",
            &["sign", "{model}", "--private-key", KEY, "--shard-size", "0"],
            &["shards is 0, expected"],
        ),
        Row {
            make: Box::new(|dir| std::fs::File::create(dir.join("big")).unwrap().set_len(2 << 30).unwrap()),
            ..called(
                "too many shards",
                &["sign", "{model}", "--private-key", KEY, "--shard-size", "1"],
                &["in/model", "more than 1048576 files or shards"],
            )
        },
        called(
            "a signature onto a file of the model",
            &["sign", "{model}", "--private-key", KEY, "-o", "{model}/config.json"],
            &["config.json", "no result replaces such"],
        ),
        called(
            "a signature nowhere",
            &["sign", "{model}", "--private-key", KEY, "-o", "{out}/no/x"],
            &["does not exist"],
        ),
        called(
            "a certificate of another key",
            &["sign", "{model}", "--private-key", KEY, "--cert", oms!("certificates/p384.pem")],
            &["p384.pem", "CN=test p384 is not one for the key"],
        ),
        called(
            "an expired certificate",
            &["sign", "{model}", "--private-key", KEY, "--cert", oms!("certificates/p256-expired.pem")],
            &["CN=test p256-expired expired at 2021-01-01T00:00:00Z", "nothing was signed"],
        ),
        unsigned("a name that cannot be signed", write("a\\b", b""), &["a\\b", "holds a backslash", "rename it"]),
        #[cfg(unix)]
        unsigned(
            "a link in the model",
            Box::new(|dir| std::os::unix::fs::symlink("config.json", dir.join("link")).unwrap()),
            &["model/link", "is a symbolic link; --allow-symlinks"],
        ),
        called(
            "no signature",
            &["verify-signature", "{model}", "--public-key", PUBLIC],
            &["model.sig", "is not there"],
        ),
        verified("a signature that is none", "{model}/config.json", &["config.json", "is not a model signature"]),
        Row {
            make: sparse,
            ..verified("a huge signature", "{model}/big", &["/big", "has 67108865 bytes, expected at"])
        },
        verified("another digest", oms!("signatures/blake2.sig"), &["blake2.sig", "\"blake2b\", and only sha256"]),
        verified("a certificate's", oms!("signatures/certificate-p256.sig"), &["certificate; give --cert-roots"]),
        Row {
            make: write("keyless.sig", KEYLESS),
            ..verified(
                "a keyless signature",
                "{model}/keyless.sig",
                &["keyless.sig", "keyless (Sigstore)", "use `python"],
            )
        },
        called(
            "a key's",
            &["verify-signature", "{model}", "--cert-roots", ROOT, "--signature", oms!("signatures/key-p256.sig")],
            &["key-p256.sig", "not with a certificate; give --public-key"],
        ),
        called(
            "no root",
            &["verify-signature", "{model}", "--cert-roots", oms!("certificates/intermediate.pem")],
            &["none of the certificates of --cert-roots is self-signed", "CN=test root"],
        ),
        called(
            "a private key to verify with",
            &["verify-signature", "{model}", "--public-key", KEY],
            &["keep this one to"],
        ),
        usage("nobody to trust", &["verify-signature", "{model}"], &["--public-key", "--cert-roots"]),
        usage(
            "two to trust",
            &["verify-signature", "{model}", "--public-key", "a", "--cert-roots", "b"],
            &["cannot be used"],
        ),
        usage("a chain alone", &["sign", "{model}", "--private-key", KEY, "--chain", "a"], &["--cert"]),
    ]
}

/// The beginning of what `model_signing sign sigstore` writes.
const KEYLESS: &[u8] = br#"{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial":
    {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": [{"logIndex": "1"}]}, "dsseEnvelope": {"payload": "",
    "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": ""}]}}"#;

/// Arguments for as long as the test runs.
fn leak(args: &[&'static str]) -> &'static [&'static str] {
    Box::leak(args.to_vec().into_boxed_slice())
}

/// What is wrong with how the binary answers.
fn judge(row: &Row) -> Result<(), String> {
    let place = Place::new();
    (row.make)(&place.model());
    let before = place.snapshot();
    let mut args = row.args.to_vec();
    if !args.contains(&"-o") && !row.name.starts_with("no model") {
        args.extend(["-o", "{out}/out.json"]);
    }
    if args[0] == "locate" {
        let given = |flag| row.args.contains(&flag);
        args.extend(if given("--samples") { vec![] } else { vec!["--samples", "2"] });
        args.extend(if given("--max-neurons") { vec![] } else { vec!["--max-neurons", "3"] });
    }
    let child = place.command(&args).envs(row.env.iter().copied()).spawn().unwrap();
    let output = wait(child, 60)?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let line = stderr.strip_prefix("achilles-audit: ").and_then(|l| l.strip_suffix('\n'));
    let checks = [
        ("exit code is 2", output.status.code() == Some(2)),
        ("stdout is empty", stdout.is_empty()),
        ("no panic", !stderr.contains("panicked")),
        ("one line that begins with the program's name", row.usage || line.is_some_and(|l| !l.contains('\n'))),
        ("it names what it should", row.says.iter().all(|s| stderr.contains(s))),
        ("nothing is written or changed", place.snapshot() == before),
    ];
    match checks.iter().find(|(_, holds)| !holds) {
        None => Ok(()),
        Some((check, _)) => Err(format!("not so: {check}: {:?} {:?}\n{stdout}{stderr}", output.status, row.says)),
    }
}

fn all_rows(rows: Vec<Row>) {
    let failures: Vec<String> =
        rows.iter().filter_map(|row| Some(format!("{}: {}", row.name, judge(row).err()?))).collect();
    assert!(failures.is_empty(), "{} of {} rows:\n{}", failures.len(), rows.len(), failures.join("\n"));
}

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

#[test]
fn texts_and_tokenizers() {
    all_rows(texts());
}

#[test]
fn keys_certificates_and_signatures() {
    all_rows(signatures());
}

#[test]
fn settings_places_and_means() {
    all_rows(settings());
}
