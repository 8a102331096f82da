//! What weights can hold, and that what is baked computes as what is hooked.

use super::*;

const BETAS: [f64; 9] = [0.0, 0.3, 0.5, 0.8, 1.0, 2.0, 5.0, -1.0, -5.0];

fn nlls(folder: &Path, rows: &[Row]) -> Vec<f64> {
    let (checkpoint, recipe) = open(folder);
    let settings = ComputeSettings {
        arithmetic: Arithmetic::F64,
        device: DeviceChoice::Cpu,
        residency: Some(Residency::Resident),
        ..ComputeSettings::default()
    };
    let model = Model::new(checkpoint, recipe, &settings, &Silent).unwrap();
    // One by one: a batch's products may sum in another order, and masks are compared to the last bit.
    let nll =
        |row: &Row| nll_nats(&model.target_log_probs(std::slice::from_ref(row), &mut NoHook, &Silent).unwrap()[0]);
    rows.iter().map(nll).collect()
}

#[test]
fn a_baked_neuron_is_the_hooked_one() {
    for folder in families() {
        let family = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let reference: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap();
        let tokens: Vec<u32> = serde_json::from_value(reference["tokens"].clone()).unwrap();
        let tokens: std::sync::Arc<[u32]> = tokens.into();
        let (_, recipe) = open(&folder);
        let copy = copy(&folder);
        let (mut compared, mut refused, mut moved, mut worst) = (0, Vec::new(), 0, 0f64);
        for neuron in one_of_each(&recipe) {
            let change = |beta| Intervention { neuron: neuron.clone(), action: Action::Scale(beta) };
            if let Err(error) = plan(copy.path(), &[change(0.0)]) {
                refused.push((neuron, error.to_string()));
                continue;
            }
            let rows: Vec<Row> = BETAS.iter().map(|beta| Row::with(tokens.clone(), vec![change(*beta)])).collect();
            let hooked = nlls(&folder, &rows);
            for (beta, hooked) in BETAS.iter().zip(hooked) {
                let out = copy.path().join("out");
                let (checkpoint, recipe) = open(copy.path());
                let plan = Plan::new(&checkpoint, &recipe, &[change(*beta)]).unwrap();
                patch::write_new(&checkpoint, &plan, &out, FAST, &Silent).unwrap();
                let baked = nlls(&out, &[Row::clean(tokens.clone())])[0];
                std::fs::remove_dir_all(out).unwrap();
                let difference = (baked - hooked).abs();
                let exact = *beta == 0.0 || *beta == 1.0;
                let allowed = if exact { 0.0 } else { 2e-6 };
                assert!(difference <= allowed, "{family} {neuron} × {beta}: baked {baked}, hooked {hooked}");
                worst = worst.max(difference);
                compared += 1;
                moved += usize::from(*beta != 1.0 && (baked - reference["nll_f64"].as_f64().unwrap()).abs() > 1e-9);
            }
        }
        println!("{family:13} {compared} compared, {moved} moved the NLL, largest difference {worst:.1e}");
        for (neuron, why) in &refused {
            println!("    {why}");
            assert!(why.starts_with(&format!("neuron {:?}: ", neuron.to_string())), "{why}");
        }
        // Edits that change nothing would prove nothing.
        assert!(compared >= 9 * 13 && moved * 9 == compared * 8, "{family}: {compared}, {moved}");
    }
}

#[test]
fn what_weights_cannot_express_is_refused_with_what_comes_nearest() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for (family, name, says) in [
        ("qwen3", "L1.self_attn.q_norm:out:5", &["one weight serves", "L1.self_attn.q_proj:out:5"] as &[&str]),
        ("gemma3", "L0.self_attn.k_norm:out:3", &["one weight serves", "L0.self_attn.k_proj:out:3"]),
        ("olmo2", "L0.self_attn.k_norm:in:3", &["L0.self_attn.k_proj:out:3 puts out"]),
        ("llama", "L1.input_layernorm:in:4", &["a norm's input", "L1.input_layernorm:out:4"]),
        ("llama", "L1.mlp.act_fn:in:4", &["L1.mlp.gate_proj:out:4 puts out"]),
        ("phi3", "L1.mlp.activation_fn:in:4", &["L1.mlp.gate_up_proj:out:4 puts out"]),
        ("mixtral", "L1.block_sparse_moe.experts.1.act_fn:in:4", &["L1.block_sparse_moe.experts.1.w1:out:4 puts out"]),
        ("phi3", "L1.resid_attn_dropout:out:4", &["a dropout has no weights", "L1.self_attn.o_proj:out:4"]),
        ("phi3", "L1.resid_mlp_dropout:in:4", &["a dropout has no weights", "L1.mlp.down_proj:out:4"]),
        ("gemma", "model.embed_tokens:out:4", &["the head is tied", "L0.input_layernorm:out:4"]),
        ("gemma", "lm_head:out:4", &["the head is tied", "a head of its own"]),
        ("gemma", "lm_head:in:4", &["the head is tied", "model.norm:out:4"]),
        ("llama", "model.embed_tokens:in:4", &["output side only"]),
        ("llama", "L1.mlp.up_prj:out:4", &["no such module", "mlp.up_proj"]),
        ("llama", "L9.mlp.up_proj:out:4", &["no such module", "L0 to L2"]),
        ("llama", "L1.self_attn.o_proj:out:4000", &["channels, 0 to"]),
    ] {
        let one = [Intervention::zero(neuron(name))];
        let error = plan(&fixtures.join(family), &one).map(drop).unwrap_err().to_string();
        assert!(says.iter().all(|s| error.contains(s)) && !error.contains('\n'), "{family}: {error}");
    }
    let llama = fixtures.join("llama");
    let zero = |name| Intervention::zero(neuron(name));
    let set = Intervention { action: Action::Set(0.5), ..zero("L1.mlp.down_proj:out:4") };
    let huge = Intervention { action: Action::Scale(1e39), ..set.clone() };
    let not_one = Intervention { action: Action::Scale(f64::NAN), ..set.clone() };
    for (interventions, says) in [
        (vec![zero("L1.mlp.down_proj:out:4"), zero("L1.mlp.down_proj:out:4")], "is given twice"),
        (vec![set], "no bias that could hold its mean"),
        (vec![huge], "use a smaller factor"),
        (vec![not_one], "expected a finite number"),
        (vec![], "no neuron"),
    ] {
        let error = plan(&llama, &interventions).map(drop).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_head_of_its_own_can_be_patched() {
    let llama = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/llama");
    for (name, axis) in [("lm_head:out:9", "row 9"), ("lm_head:in:9", "column 9")] {
        let plan = plan(&llama, &[Intervention::zero(neuron(name))]).unwrap();
        assert!(plan.edits[0].place.to_string().starts_with(&format!("{axis} of lm_head.weight")));
    }
}

#[test]
fn quantized_and_foreign_weights_are_refused() {
    let neuron = "L1.mlp.down_proj:out:3";
    let weights = |place: &Place, change: &dyn Fn(&mut tiny::Tensor)| {
        let path = place.model().join("model.safetensors");
        let mut tensors = tiny::load(&std::fs::read(&path).unwrap());
        change(tensors.iter_mut().find(|t| t.name == "model.layers.1.mlp.down_proj.weight").unwrap());
        std::fs::write(path, tiny::save(&tensors)).unwrap();
    };
    let fp8 = |t: &mut tiny::Tensor| {
        t.dtype = "F8_E4M3".into();
        t.bytes.truncate(t.bytes.len() / 4);
    };
    let packed = |t: &mut tiny::Tensor| t.name = "model.layers.1.mlp.down_proj.qweight".into();
    let other = |_: &mut tiny::Tensor| ();
    for (change, more, args, says) in [
        (&fp8 as &dyn Fn(&mut tiny::Tensor), "", ["-o", "{out}/p"], "F8_E4M3, expected F32"),
        (&packed, "", ["-o", "{out}/p"], "a form that is not known (model.layers.1.mlp.down_proj.qweight)"),
        (&other, "consolidated.safetensors", ["--in-place", "--progress=none"], "vLLM would load instead"),
    ] {
        let place = Place::new();
        weights(&place, change);
        if !more.is_empty() {
            std::fs::write(place.model().join(more), b"x").unwrap();
        }
        let before = place.snapshot();
        let output = place.run(&[&["patch", "{model}", "--neuron", neuron], args.as_slice()].concat());
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(says) && error.lines().count() == 1, "{error}");
        assert!(place.snapshot() == before);
    }
}

#[test]
fn means_are_set_where_a_bias_can_hold_them() {
    let qwen2 = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/qwen2");
    let place = Place::new();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(qwen2.join(file), place.model().join(file)).unwrap();
    }
    let output = place.run(&["patch", "{model}", "--neuron", "L1.mlp.down_proj:out:3", "--mean", "-o", "{out}/p"]);
    assert!(text(&output.stderr).contains("no bias that could hold its mean"), "{}", text(&output.stderr));
    let asked = ["patch", "{model}", "--neuron", "L1.self_attn.k_proj:out:3", "--mean", "-o", "{out}/p"];
    let output = place.run(&[&asked[..], &["--memory", "1KiB"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("give more by --memory"), "{}", text(&output.stderr));
    good(place.run(&[&asked[..], &["--dtype", "f64", "--memory", "8GB"]].concat()));
    let receipt: Value = serde_json::from_slice(&files(&place.out().join("p"))["achilles-patch.json"]).unwrap();
    let mean = receipt["asked"][0]["set_to"].as_f64().unwrap();
    assert!(mean != 0.0);
    let set = Intervention { neuron: neuron("L1.self_attn.k_proj:out:3"), action: Action::Set(mean) };
    let tokens: std::sync::Arc<[u32]> = (1..40).collect();
    let hooked = nlls(&place.model(), &[Row::clean(tokens.clone()), Row::with(tokens.clone(), vec![set])]);
    let baked = nlls(&place.out().join("p"), &[Row::clean(tokens)])[0];
    assert!((baked - hooked[1]).abs() < 1e-6 && (hooked[0] - hooked[1]).abs() > 1e-9, "{baked} {hooked:?}");
}

#[test]
fn a_factor_that_leaves_nothing_or_too_much_is_refused_or_said() {
    let place = Place::new();
    let run = |beta: &str| place.run(&[&PATCH, ["--dry-run", "--beta", beta].as_slice()].concat());
    for beta in ["1e-300", "1e-45", "1e39", "1e308", "-1e-300"] {
        let output = run(beta);
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && output.stdout.is_empty() && error.lines().count() == 1, "{error}");
        assert!(error.contains("too small") || error.contains("use a smaller factor"), "{error}");
    }
    let some = good(run("1e-44"));
    assert!(text(&some.stdout).contains("values become 0 though the factor is not"), "{}", text(&some.stdout));
    assert!(!text(&good(run("0")).stdout).contains("though"));
    let gemma = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gemma");
    let tiny = Intervention { neuron: neuron("L0.input_layernorm:out:4"), action: Action::Scale(1e-30) };
    let error = plan(&gemma, std::slice::from_ref(&tiny)).map(drop).unwrap_err().to_string();
    assert!(error.contains("too small"), "{error}");
    let masked = Intervention { neuron: neuron("L0.mlp.down_proj:out:4"), action: Action::Scale(0.5) };
    assert_eq!(plan(&gemma, &[tiny, masked]).unwrap().rounding.to_zero, 1);
    for (args, says) in
        [(["--beta", "1e300"], "is not a number"), (["--neuron", "L1.mlp.down_proj:out:3"], "is given twice")]
    {
        let command = ["perplexity", "{model}", "--text", tiny::TEXT, "--neuron", "L1.mlp.down_proj:out:3"];
        let output = place.run(&[command.as_slice(), &args].concat());
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && output.stdout.is_empty() && error.lines().count() == 1, "{error}");
        assert!(error.contains(says), "{error}");
    }
}
