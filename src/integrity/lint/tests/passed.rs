//! What is in order.

use super::*;

/// Nothing here is out of order.
#[rustfmt::skip]
const PASSED: &[(&str, Break)] = &[
    ("as it is", |_| {}),
    ("a readme, licence and a folder of others", |f| { f.write("README.md", b"# cat\n"); f.write("onnx/LICENSE", b"cat\nsat\n."); }),
    ("a plain template", |f| template(f, json!("{% for m in messages %}{{ m.content ~ '__' }}{% endfor %}"))),
    ("a token called auto_map", |f| f.json("tokenizer.json", |t| t["model"]["vocab"]["auto_map"] = 96.into())),
    ("tokens and settings as people publish them", |f| {
        f.json("config.json", |c| (c["pad_token_id"], c["eos_token_id"]) = ((-1).into(), json!([2, 3])));
        f.json("tokenizer.json", |t| {
            t["model"]["vocab"].as_object_mut().unwrap().remove("\n");
            t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}, {"id": 97, "content": "<image_soft_token>"}]);
        });
        f.write("generation_config.json", br#"{"bos_token_id": null, "eos_token_id": [96, 0], "pad_token_id": null, "max_new_tokens": 2048,
            "max_length": 4096, "min_length": 0, "repetition_penalty": 1.05, "temperature": 0.6, "suppress_tokens": [1, 2],
            "stop_strings": ["<|end|>", "\n\n"], "no_repeat_ngram_size": 0}"#);
        f.write("added_tokens.json", br#"{"<|end|>": 96, "<image_soft_token>": 97}"#);
        f.write("special_tokens_map.json", br#"{"eos_token": {"content": "<|end|>"}, "pad_token": "!", "unk_token": "<|end|>"}"#);
        f.write("tokenizer_config.json", br#"{"bos_token": null, "eos_token": {"content": "<|end|>"}, "pad_token": "",
            "additional_special_tokens": ["<|end|>"], "extra_special_tokens": {"image_token": "<image_soft_token>"},
            "added_tokens_decoder": {"96": {"content": "<|end|>", "special": true}}, "model_max_length": 1000000000000000019884624838656}"#);
    }),
    ("a header padded with spaces", |f| f.header(|h| h + "        ")),
    ("one denormal value", |f| f.values(DOWN, [1], 1e-40)),
    ("a row with one value", |f| {
        let (_, columns) = down_shape(f);
        f.values(DOWN, 2 * columns..3 * columns - 1, 0.0);
    }),
    ("the largest values", |f| f.values(DOWN, [1, 2], f32::MAX)),
    ("a zero in a norm", |f| f.values(NORM, [1], 0.0)),
    ("the buffer of old transformers", |f| f.shard(|s| s.push("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[5], &frequencies()))),
    ("the same in half precision", |f| f.shard(|s| {
        s.push("model.layers.0.self_attn.rotary_emb.inv_freq", "F16", &[5], &frequencies().as_chunks().0.iter()
            .flat_map(|b| half::f16::from_f32(f32::from_le_bytes(*b)).to_le_bytes()).collect::<Vec<_>>());
    })),
    ("biases of zeros", |f| {
        f.json("config.json", |c| c["attention_bias"] = true.into());
        f.shard(|s| {
            for layer in 0..3 {
                for (module, width) in [("q", 40), ("k", 20), ("v", 20), ("o", 40)] {
                    s.push(&format!("model.layers.{layer}.self_attn.{module}_proj.bias"), "F32", &[width], &vec![0; 4 * width]);
                }
            }
        });
    }),
    ("norms of another dtype than the rest", |f| f.shard(|s| {
        for name in ["input_layernorm", "post_attention_layernorm"] {
            for layer in 0..3 {
                let name = format!("model.layers.{layer}.{name}.weight");
                s.remove(&name);
                s.push(&name, "BF16", &[40], &[0x3f; 80]);
            }
        }
    })),
    ("a base model's names", |f| f.shard(|s| {
        let tensors = std::mem::take(&mut s.header);
        s.header = tensors.into_iter().map(|(name, t)| (name.strip_prefix("model.").unwrap_or(&name).to_owned(), t)).collect();
    })),
    ("packed weights", in_fp8),
    ("weights packed in another form", in_nvfp4),
    ("a header as long as zlib's first bytes", |f| f.header(|h| {
        let length = (h.len()..).find(|length| length % 65536 == 0x5e78).unwrap();
        h.clone() + &" ".repeat(length - h.len())
    })),
    ("other text", |f| f.write("vocab.txt", b"I\nam\n(a\nlist.\n")),
    ("what people publish", |f| {
        f.write("runs/Jan01/events.out.tfevents.1", b"\x18\0\0\0\0\0\0\0");
        f.write("root.crt.pem", b"-----BEGIN CERTIFICATE-----\nMII");
        f.write(".env.example", b"TOKEN=");
        f.write("Screenshot 1\u{202f}AM.png", b"\x89PNG\r\n\x1a\n");
        f.write("1_Pooling/config.json", b"{}");
        f.write("requirements.txt", b"torch\n");
    }),
    ("emoji and Persian in names", |f| {
        f.write("notes \u{2764}\u{fe0f}.md", b"");
        f.write("\u{645}\u{6cc}\u{200c}\u{62e}.md", b"");
        f.write("R\u{e9}sum\u{e9}.md", b"");
    }),
    ("what tools leave", |f| {
        f.write(".gitattributes", b"");
        f.write(".cache/huggingface/download/model.safetensors.incomplete", b"123");
        f.write(".github/workflows/x.yml", b"");
        f.write("assets/logo.png", b"\x89PNG\r\n\x1a\n");
    }),
    ("prose in a template", |f| f.write("chat_template.jinja", b"Use __init__. {# x.__class__ #}{% raw %}{{ x.__class__ }}{% endraw %}")),
    ("a tokenizer's model and an empty template", |f| {
        f.write("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02");
        f.write("chat_template.jinja", b"");
    }),
    ("tiktoken's vocabulary", |f| f.write("original/tokenizer.model", b"IQ== 0\nIg== 1\n")),
    ("the largest of half precision", |f| {
        f.json("config.json", |c| c["dtype"] = "float16".into());
        f.values(DOWN, [1, 2], 65504.0);
    }),
    ("git's own files", |f| f.write(".git/x.bin", b"\x80\x02}q\x00.")),
];

#[test]
fn what_is_in_order_passes() {
    for (what, change) in PASSED {
        let folder = Folder::whole();
        change(&folder);
        assert_eq!(run(folder.0.path()).observations, [], "{what}");
    }
    assert_eq!(run(Folder::sharded().0.path()).observations, []);
}
