//! Settings, places for results, and means.

use super::*;

#[test]
fn settings_places_and_means() {
    all_rows(settings());
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
            &[
                "experts",
                "no module matches",
                "expected reference, linear, down_proj, up_proj, gate_proj, attention or a glob",
                "mlp.down_proj",
            ],
        ),
        called(
            "super weights of other modules",
            &["locate", "{model}", "--ranking", "super-weight", "--sites", "*.q_proj"],
            &["--ranking super-weight ranks down_proj alone", "use --sites down_proj"],
        ),
        called(
            "weights of other modules",
            &["locate", "{model}", "--ranking", "weights", "--sites", "*.q_proj"],
            &["--ranking weights ranks down_proj alone", "use --sites down_proj"],
        ),
        called(
            "weights at positions",
            &["locate", "{model}", "--ranking", "weights", "--counting", "published"],
            &["--ranking weights has none", "use --counting channels"],
        ),
        called(
            "a base by lot",
            &["compare", "{model}", "{model}", "--ranking", "random"],
            &["--ranking random ranks a base and any variant of it alike", "use another --ranking"],
        ),
        called(
            "gradients in f16",
            &["locate", "{model}", "--ranking", "gradient", "--dtype", "f16"],
            &["gradients are too small for f16", "use --dtype bf16, f32 or f64"],
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
                &["locate", "{model}", "--weights", "stream"],
                &["of memory", "can be had", "free some"],
            )
        },
        called(
            "a budget too small",
            &["locate", "{model}", "--memory", "1MiB"],
            &["this model's weights", "of memory", "can be had", "--memory"],
        ),
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
        usage("no unit", &["locate", "{model}", "--memory", "8"], &["\"8\"", "expected a number with a unit", "8GB"]),
        usage("bad residency", &["locate", "{model}", "--weights", "some"], &["some", "resident, stream, auto"]),
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
