//! `probe`, and the key-value cache under it.

use crate::parity::families::{Reference, difference, fixtures, model};
use crate::tiny::{Place, TEXT};
use achilles_audit::compute::{Arithmetic, Model, NoHook, Residency, Row};
use achilles_audit::evaluate::metrics::most_probable;
use achilles_audit::neuron::Intervention;
use achilles_audit::progress::Silent;
use candle_core::{DType, Tensor};
use serde_json::{Value, json};

fn last_logits(model: &Model, tokens: &[u32], interventions: &[Intervention]) -> Tensor {
    let row = Row::with(tokens.into(), interventions.to_vec());
    model.last_logits(&[row], &mut NoHook, &Silent).unwrap().remove(0)
}

#[test]
fn a_growing_text_computes_what_the_whole_text_does() {
    for folder in fixtures() {
        let reference = Reference::read(&folder);
        let tokens = &reference.tokens;
        let cases = reference.cases();
        for (arithmetic, residency, allowed) in [
            (Arithmetic::F64, Residency::Resident, 1e-10),
            (Arithmetic::F64, Residency::Streamed, 1e-10),
            (Arithmetic::F32, Residency::Resident, 1e-5),
        ] {
            let model = model(&folder, "config.json", arithmetic, residency);
            let clean = (None, Vec::new());
            let texts = std::iter::once(clean).chain(cases.iter().map(|c| (Some(&c.name), c.interventions.clone())));
            let mut worst = 0f64;
            for (name, interventions) in texts {
                let mut decoder = model.decoder(interventions.clone(), tokens.len()).unwrap();
                // Several tokens, one by one, several after those that are kept, and one by one to the end.
                let mut at = 0;
                let mut last = None;
                for to in [5, 6, 7, 13, 14].into_iter().chain(tokens.len() - 4..=tokens.len()) {
                    if to <= at || to > tokens.len() {
                        continue;
                    }
                    let ours = decoder.extend(&tokens[at..to]).unwrap();
                    let off = difference(&ours, &last_logits(&model, &tokens[..to], &interventions));
                    assert!(off <= allowed, "{} {name:?} after {to}: {off:.2e}", folder.display());
                    worst = worst.max(off);
                    (at, last) = (to, Some(ours));
                }
                // And what the authors' code makes of it.
                if let Some(name) = name {
                    let theirs = &reference.tensors[&format!("f64/case/{name}/last_logits")];
                    let off = difference(&last.unwrap(), theirs);
                    assert!(off <= allowed, "{} {name} from the authors': {off:.2e}", folder.display());
                }
            }
            let family = folder.file_name().unwrap().to_str().unwrap();
            println!("{family:13} {:4} {residency:?}: largest difference {worst:.2e}", arithmetic.as_str());
        }
    }
}

/// The most probable token, again and again, with the cache.
fn greedy(model: &Model, prompt: &[u32], masks: Vec<Intervention>, new: usize) -> Vec<u32> {
    let mut decoder = model.decoder(masks, prompt.len() + new).unwrap();
    let (mut next, mut tokens) = (prompt.to_vec(), Vec::new());
    while tokens.len() < new {
        let logits: Vec<f64> = decoder.extend(&next).unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap();
        tokens.push(most_probable(&logits));
        next = tokens[tokens.len() - 1..].to_vec();
    }
    tokens
}

fn tokens_of(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn masks_of(neurons: &Value) -> Vec<Intervention> {
    neurons.as_array().unwrap().iter().map(|n| Intervention::zero(n.as_str().unwrap().parse().unwrap())).collect()
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    let theirs: Value = serde_json::from_str(include_str!("../../../fixtures/greedy.json")).unwrap();
    for folder in fixtures() {
        let family = folder.file_name().unwrap().to_str().unwrap();
        let expected = &theirs["families"][family];
        let model = model(&folder, "config.json", Arithmetic::F32, Residency::Resident);
        for (name, masks) in [("before", Vec::new()), ("after", masks_of(&expected["neurons"]))] {
            let continuation = tokens_of(&expected[name]);
            assert!(continuation.len() >= 15, "{family}");
            let ours = greedy(&model, &tokens_of(&expected["prompt"]), masks, continuation.len());
            assert_eq!(ours, continuation, "{family} {name}");
        }
    }
}

#[test]
#[ignore = "needs `make model`"]
fn answers_of_a_real_model_are_those_of_transformers() {
    let theirs: Value = serde_json::from_str(include_str!("../../../fixtures/smollm2/probe.json")).unwrap();
    let mut args = vec!["probe".to_owned(), crate::smollm2_folder(), "--device=cpu".into(), "--format=json".into()];
    args.extend(theirs["neurons"].as_array().unwrap().iter().map(|n| format!("--neuron={}", n.as_str().unwrap())));
    let ours = document(&Place::new(), &args.iter().map(String::as_str).collect::<Vec<_>>());
    let (ours, theirs) = (ours["prompts"].as_array().unwrap(), theirs["prompts"].as_array().unwrap());
    assert_eq!((ours.len(), theirs.len()), (5, 5));
    let (mut worst, mut compared) = (0f64, 0);
    for (ours, theirs) in ours.iter().zip(theirs) {
        let question = &theirs["question"];
        assert_eq!(&ours["prompt"], question);
        assert_eq!(ours["prompt_tokens"], theirs["prompt"].as_array().unwrap().len());
        for name in ["before", "after"] {
            let (ours, theirs) = (tokens_of(&ours[name]["tokens"]), tokens_of(&theirs[name]));
            assert_eq!(ours[..theirs.len()], theirs, "{question} {name}");
            compared += theirs.len();
        }
        let curve = ours["curve"].as_array().unwrap();
        assert_eq!(curve.len(), theirs["rank"].as_array().unwrap().len());
        for (n, point) in curve.iter().enumerate() {
            assert_eq!(point["rank"], theirs["rank"][n], "{question} {n} masked");
            let (p, q) = (point["probability"].as_f64().unwrap(), theirs["probability"][n].as_f64().unwrap());
            assert!((p / q - 1.0).abs() <= 1e-4, "{question} {n} masked: {p}, expected {q}");
            worst = worst.max((p / q - 1.0).abs());
        }
    }
    println!("{compared} tokens are theirs; largest relative difference of a probability: {worst:.2e}");
    assert!(compared >= 250, "{compared}");
}

const NEURON: &str = "L1.mlp.down_proj:out:7";
const PROBE: [&str; 6] = ["probe", "{model}", "--max-new-tokens=6", "--format=json", "--neuron", NEURON];

fn write(place: &Place, name: &str, text: &str) {
    std::fs::write(place.model().parent().unwrap().join(name), text).unwrap();
}

fn document(place: &Place, args: &[&str]) -> Value {
    let output = place.run(args);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&PROBE, more].concat()
}

#[test]
fn the_document_tells_what_was_asked_and_answered() {
    let place = Place::new();
    let neurons = ["--neuron", "L0.mlp.down_proj:out:3", "--neuron", "L0.self_attn.o_proj:out:1"];
    let result = document(&place, &with(&neurons));
    assert_eq!(result["schema"], "achilles-audit/probe/v1");
    assert_eq!(result["tool"]["name"], "achilles-audit");
    assert_eq!(result["model"]["architecture"], "LlamaForCausalLM");
    assert_eq!(result["model"]["config_sha256"].as_str().unwrap().len(), 64);
    let settings = &result["settings"];
    let all = ["model.layers.1.mlp.down_proj:out:7", "model.layers.0.mlp.down_proj:out:3"];
    assert_eq!(settings["neurons"], json!([all[0], all[1], "model.layers.0.self_attn.o_proj:out:1"]));
    assert_eq!((&settings["max_new_tokens"], &settings["chat_template"]), (&json!(6), &Value::Null));
    let prompts = result["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 5);
    for prompt in prompts {
        let curve = prompt["curve"].as_array().unwrap();
        assert_eq!(curve.len(), 4, "one more than neurons");
        assert_eq!(curve[0]["rank"], 1, "what the model answers is what it finds most probable");
        assert_eq!(prompt["before"]["tokens"][0], prompt["answer_token"]["id"]);
        assert_ne!(curve[0]["probability"], curve[1]["probability"]);
        assert!(prompt["before"]["tokens"].as_array().unwrap().len() <= 6);
    }
    assert_eq!(document(&place, &with(&neurons)), result, "not deterministic");
    assert_eq!(document(&place, &with(&[&neurons[..], &["--weights", "stream"]].concat())), result, "streamed");
}

#[test]
fn a_critical_set_is_its_neurons_in_order() {
    let place = Place::new();
    let set = json!({"schema": "achilles-audit/critical-set/v1", "model": {"architecture": "LlamaForCausalLM"},
        "critical_set": {"neurons": [NEURON]}});
    write(&place, "critical.json", &set.to_string());
    let by_set = ["probe", "{model}", "--max-new-tokens=6", "--format=json", "--critical={in}/critical.json"];
    assert_eq!(document(&place, &by_set), document(&place, &PROBE));
}

#[test]
fn a_given_answer_is_what_the_curve_tells() {
    let place = Place::new();
    let prompt = "The capital of France is";
    write(&place, "p.jsonl", &json!({"prompt": prompt, "answer": " Paris"}).to_string());
    let result = document(&place, &with(&["--prompts={in}/p.jsonl"]));
    let asked = &result["prompts"][0];
    assert_eq!((&asked["prompt"], &asked["answer_token"]["text"]), (&json!(prompt), &json!(" ")));
    assert_ne!(asked["curve"][0]["rank"], 1);
    // Probability and rank are those of the uncached model.
    let model = model(&crate::parity::families::fixture("llama"), "config.json", Arithmetic::F32, Residency::Resident);
    let ids = achilles_audit::evaluate::text::Tokenizer::of(
        &achilles_audit::checkpoint::Checkpoint::open(place.model().to_str().unwrap(), &Silent).unwrap(),
    );
    let ids = ids.unwrap().ids(prompt).unwrap();
    let masked = [Intervention::zero(NEURON.parse().unwrap())];
    for (n, masks) in [&[][..], &masked].into_iter().enumerate() {
        let logits: Vec<f64> = last_logits(&model, &ids, masks).to_dtype(DType::F64).unwrap().to_vec1().unwrap();
        let own = logits[asked["answer_token"]["id"].as_u64().unwrap() as usize];
        let probability = own.exp() / logits.iter().map(|l| l.exp()).sum::<f64>();
        let ours = asked["curve"][n]["probability"].as_f64().unwrap();
        assert!((ours / probability - 1.0).abs() < 1e-6, "{ours} {probability}");
        assert_eq!(asked["curve"][n]["rank"], 1 + logits.iter().filter(|l| **l > own).count());
    }
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[answer]";

#[test]
fn a_chat_template_is_used_where_there_is_one() {
    let place = Place::new();
    write(&place, "p.txt", TEXT);
    let asked = |more: &[&'static str]| document(&place, &with(&[&["--prompts={in}/p.txt"], more].concat()));
    let tokens = |result: &Value| result["prompts"][0]["prompt_tokens"].as_u64().unwrap() as usize;
    let raw = asked(&[]);
    assert_eq!(tokens(&raw), TEXT.len(), "a token a character");
    let config = json!({"bos_token": {"content": "T"}, "chat_template": [{"name": "tool_use", "template": "x"},
        {"name": "default", "template": TEMPLATE}]});
    write(&place, "model/tokenizer_config.json", &config.to_string());
    let chat = asked(&[]);
    assert_eq!(chat["settings"]["chat_template"]["file"], "tokenizer_config.json");
    assert_eq!(tokens(&chat), "T[user][answer]".len() + TEXT.len());
    assert_eq!(asked(&["--no-chat-template"]), raw);
    // A file of its own wins.
    write(&place, "model/chat_template.jinja", "Q {{ messages[0].content }}");
    let own = asked(&[]);
    assert_eq!(own["settings"]["chat_template"]["file"], "chat_template.jinja");
    assert_eq!(tokens(&own), 2 + TEXT.len());
}

#[test]
fn an_answer_ends_before_a_stop_token() {
    let place = Place::new();
    let whole = document(&place, &PROBE);
    let second = |result: &Value| result["prompts"][0]["before"]["tokens"][1].as_u64().unwrap();
    let stop = second(&whole);
    assert_eq!(whole["prompts"][0]["before"]["ended"], false);
    write(&place, "model/generation_config.json", &json!({"eos_token_id": [stop, 0]}).to_string());
    let ended = document(&place, &PROBE);
    let before = &ended["prompts"][0]["before"];
    let expected = tokens_of(&whole["prompts"][0]["before"]["tokens"]);
    let expected: Vec<u32> = expected.into_iter().take_while(|t| u64::from(*t) != stop).collect();
    assert_eq!((tokens_of(&before["tokens"]), &before["ended"]), (expected, &json!(true)));
    assert_eq!(ended["settings"]["stop_tokens"], json!([stop, 0]));
}

#[test]
fn the_table_fits_a_terminal() {
    let place = Place::new();
    let long = "word ".repeat(60);
    write(&place, "p.txt", &format!("{long}\nWho?\n"));
    let mut args = vec!["probe", "{model}", "--prompts={in}/p.txt"];
    let neurons: Vec<String> = (0..12).map(|n| format!("--neuron=L0.mlp.down_proj:out:{n}")).collect();
    args.extend(neurons.iter().map(String::as_str));
    let output = place.run(&args);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && table.contains("and 7 more") && table.contains("first 12"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
}

#[test]
fn whatever_is_wrong_is_told_in_one_line() {
    let other = json!({"schema": "achilles-audit/critical-set/v1", "model": {"architecture": "Qwen2ForCausalLM"},
        "critical_set": {"neurons": [NEURON]}});
    let neuron = ["--neuron", NEURON];
    let prompts = ["--neuron", NEURON, "--prompts"];
    for (what, files, args, says) in [
        ("an unknown neuron", vec![], vec!["--neuron", "L9.mlp.down_proj:out:7"], "L0 to L2"),
        ("a channel beyond", vec![], vec!["--neuron", "L0.mlp.down_proj:out:99999"], "channels"),
        ("a neuron twice", vec![], [neuron, neuron].concat(), "twice"),
        ("no new tokens", vec![], [&neuron[..], &["--max-new-tokens=0"]].concat(), "max-new-tokens is 0"),
        ("a long answer", vec![], [&neuron[..], &["--max-new-tokens=99999999999999"]].concat(), "memory"),
        ("no such file", vec![], [&prompts[..], &["{in}/p.txt"]].concat(), "p.txt"),
        ("empty", vec![("p.txt", "\n \n")], [&prompts[..], &["{in}/p.txt"]].concat(), "holds no prompt"),
        ("no JSON", vec![("p.jsonl", "{\"prompt\": 1}")], [&prompts[..], &["{in}/p.jsonl"]].concat(), "line 1"),
        ("other keys", vec![("p.jsonl", "{\"text\": \"a\"}")], [&prompts[..], &["{in}/p.jsonl"]].concat(), "prompt"),
        ("blank", vec![("p.jsonl", "{\"prompt\": \" \"}")], [&prompts[..], &["{in}/p.jsonl"]].concat(), "prompt 1"),
        (
            "an empty answer",
            vec![("p.jsonl", "{\"prompt\": \"a\", \"answer\": \"\"}")],
            [&prompts[..], &["{in}/p.jsonl"]].concat(),
            "its answer is empty",
        ),
        (
            "another architecture",
            vec![("c.json", other.to_string().leak() as &str)],
            vec!["--critical={in}/c.json"],
            "\"Qwen2ForCausalLM\", expected one of a LlamaForCausalLM",
        ),
        ("a bad template", vec![("model/chat_template.jinja", "{% if %}")], neuron.to_vec(), "use --no-chat-template"),
        ("an empty template", vec![("model/chat_template.jinja", "")], neuron.to_vec(), "has no tokens"),
        ("a bad config", vec![("model/tokenizer_config.json", "[")], neuron.to_vec(), "tokenizer_config.json: is malf"),
        (
            "bad stop tokens",
            vec![("model/generation_config.json", "{\"eos_token_id\": \"x\"}")],
            neuron.to_vec(),
            "generation_config.json: is malformed",
        ),
    ] {
        let place = Place::new();
        files.iter().for_each(|(name, text)| write(&place, name, text));
        let before = place.snapshot();
        let output = place.run(&[&["probe", "{model}", "-o", "{out}/probe.json", "--format=json"], &args[..]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{what}: {said}");
        assert!(said.contains(says) && said.lines().count() == 1, "{what}: {said}");
        assert!(output.stdout.is_empty() && place.snapshot() == before, "{what} wrote something");
    }
}
