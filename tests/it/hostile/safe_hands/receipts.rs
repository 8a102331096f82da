//! Receipts and journals that somebody else wrote.

use super::*;

/// A row of the tiny model, its receipt as a patch writes it, and the folder.
struct Forger {
    place: Place,
    receipt: Value,
    clean: Vec<u8>,
    lesioned: Vec<u8>,
    row: std::ops::Range<usize>,
}

impl Forger {
    fn new() -> Forger {
        let place = Place::new();
        let weights = || std::fs::read(place.model().join("model.safetensors")).unwrap();
        let clean = weights();
        assert_eq!(run(&place, &["patch", "{model}", "--in-place", "--neuron", NEURON]).0, 0);
        let lesioned = weights();
        let receipt = std::fs::read(place.model().join("achilles-patch.json")).unwrap();
        let receipt: Value = serde_json::from_slice(&receipt).unwrap();
        let span = &receipt["edits"][0]["span"];
        let number = |key: &str| span[key].as_u64().unwrap() as usize;
        let row = number("offset")..number("offset") + number("piece_bytes");
        Forger { receipt, clean, lesioned, row, place }
    }

    /// Puts weights, a receipt and the bytes that it is to put back into the folder.
    fn put(&self, weights: &[u8], receipt: &Value, undo: &[u8]) {
        let mut receipt = receipt.clone();
        receipt["undo"] = json!({"name": "achilles-patch.undo", "bytes": undo.len(), "sha256": sha256_hex(undo)});
        std::fs::write(self.place.model().join("model.safetensors"), weights).unwrap();
        std::fs::write(self.place.model().join("achilles-patch.json"), receipt.to_string()).unwrap();
        std::fs::write(self.place.model().join("achilles-patch.undo"), undo).unwrap();
    }

    /// The receipt of a change from one row to another.
    fn receipt(&self, state: &str, before: &[u8], after: &[u8]) -> Value {
        let mut receipt = self.receipt.clone();
        receipt["state"] = state.into();
        receipt["edits"][0]["sha256_before"] = sha256_hex(before).into();
        receipt["edits"][0]["sha256_after"] = sha256_hex(after).into();
        receipt
    }
}

#[test]
fn a_receipt_that_does_not_follow_from_what_was_asked_is_not_followed() {
    let forger = Forger::new();
    let (clean, lesioned) = (&forger.clean[forger.row.clone()], &forger.lesioned[forger.row.clone()]);
    let half: Vec<u8> =
        clean.chunks(4).flat_map(|b| (f32::from_le_bytes(b.try_into().unwrap()) / 2.0).to_le_bytes()).collect();
    let asked = |mut receipt: Value, neuron: &str, beta: Value| {
        receipt["asked"] = json!([{"neuron": neuron, "beta": beta, "set_to": null}]);
        receipt["edits"][0]["neurons"] = json!([neuron]);
        receipt
    };
    let full = "model.layers.1.mlp.down_proj:out:3";
    let swapped = forger.receipt("applied", lesioned, clean);
    let mut no_neuron = swapped.clone();
    no_neuron["asked"] = json!([]);
    let mut both = swapped.clone();
    both["asked"][0]["set_to"] = 0.5.into();
    let mut twice = forger.receipt.clone();
    let edit = twice["edits"][0].clone();
    twice["edits"].as_array_mut().unwrap().push(edit);
    for (what, weights, receipt, undo) in [
        ("before and after are swapped", &forger.clean, swapped.clone(), lesioned),
        ("another factor", &forger.clean, asked(swapped.clone(), full, 3.0.into()), half.as_slice()),
        (
            "another neuron",
            &forger.lesioned,
            asked(forger.receipt.clone(), "model.layers.1.mlp.down_proj:out:4", 0.into()),
            clean,
        ),
        ("no neuron", &forger.clean, no_neuron, lesioned),
        ("two things at once", &forger.clean, both, lesioned),
        ("an edit that is there twice", &forger.lesioned, twice, &[clean, clean].concat()),
        ("half-way, swapped", &forger.clean, forger.receipt("applying", lesioned, clean), lesioned),
        ("half-way back, swapped", &forger.clean, forger.receipt("undoing", lesioned, clean), lesioned),
        ("half-way, from bytes that lead elsewhere", &forger.clean, forger.receipt("applying", &half, lesioned), &half),
        (
            "half-way back, from bytes that lead elsewhere",
            &forger.clean,
            forger.receipt("undoing", &half, lesioned),
            &half,
        ),
    ] {
        forger.put(weights, &receipt, undo);
        let model = forger.place.model();
        let before = forger.place.snapshot();
        let (code, _, error) = run(&forger.place, &["unpatch", "{model}"]);
        assert!(code == 2 && error.lines().count() == 1, "{what}: {code}: {error}");
        assert!(forger.place.snapshot() == before, "{what}");
        if receipt["state"] != "applied" {
            let (code, _, error) = run(&forger.place, &["patch", "{model}", "--in-place", "--neuron", NEURON]);
            assert!(code == 2 && error.lines().count() == 1, "{what}: {code}: {error}");
            assert!(forger.place.snapshot() == before, "{what}");
        }
        let original = forger.place.out().join("original");
        std::fs::create_dir_all(&original).unwrap();
        for name in ["config.json", "tokenizer.json"] {
            std::fs::copy(model.join(name), original.join(name)).unwrap();
        }
        let mut theirs = weights.clone();
        theirs[forger.row.clone()].copy_from_slice(&undo[..clean.len()]);
        std::fs::write(original.join("model.safetensors"), theirs).unwrap();
        let (code, _, error) = run(&forger.place, &["verify-patch", "{model}", "--original", "{out}/original"]);
        assert_eq!(code, 2, "{what}: {error}");
    }
    // The true one, of today or of an earlier day, still leads back; so does one half-way.
    let mixed = [&forger.lesioned[..forger.row.start + 8], &forger.clean[forger.row.start + 8..]].concat();
    for (state, weights) in [("applied", &forger.lesioned), ("applying", &mixed), ("undoing", &mixed)] {
        forger.put(weights, &forger.receipt(state, clean, lesioned), clean);
        let (code, _, error) = run(&forger.place, &["unpatch", "{model}"]);
        assert_eq!(code, 0, "{error}");
        assert!(std::fs::read(forger.place.model().join("model.safetensors")).unwrap() == forger.clean);
    }
}

/// A factor of 0 leaves nothing that the original bytes could be worked out from.
#[test]
fn forged_originals_are_put_back_only_where_that_is_asked_for_and_never_as_no_numbers() {
    let forger = Forger::new();
    let (clean, lesioned) = (&forger.clean[forger.row.clone()], &forger.lesioned[forger.row.clone()]);
    let of = |value: f32| -> Vec<u8> { clean.chunks(4).flat_map(|_| value.to_le_bytes()).collect() };
    let now = || std::fs::read(forger.place.model().join("model.safetensors")).unwrap();
    for value in [f32::INFINITY, f32::NAN] {
        for state in ["applied", "applying", "undoing"] {
            forger.put(&forger.lesioned, &forger.receipt(state, &of(value), lesioned), &of(value));
            refused(&forger.place, &["unpatch", "{model}"], "values that are infinite or not a number");
            assert!(now() == forger.lesioned, "{value} {state}");
        }
    }
    for state in ["applying", "undoing"] {
        forger.put(&forger.lesioned, &forger.receipt(state, &of(0.5), lesioned), &of(0.5));
        let before = forger.place.snapshot();
        let patch = ["patch", "{model}", "--in-place", "--neuron", "L0.mlp.down_proj:out:1"];
        refused(
            &forger.place,
            &patch,
            "if that was yours, `achilles-audit unpatch` puts back the bytes that it had kept",
        );
        assert!(forger.place.snapshot() == before, "{state}");
    }
    forger.put(&forger.lesioned, &forger.receipt("applied", &of(0.5), lesioned), &of(0.5));
    let (code, _, error) = run(&forger.place, &["unpatch", "{model}"]);
    assert!(code == 0 && error.contains("bytes are as achilles-patch.undo had them, kept by the patch of"), "{error}");
    // What could not be put back is not taken away.
    let mut infinite = forger.clean.clone();
    infinite[forger.row.clone()][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(forger.place.model().join("model.safetensors"), &infinite).unwrap();
    refused(&forger.place, &["patch", "{model}", "--in-place", "--neuron", NEURON], "patch to a new place with -o");
    assert!(now() == infinite);
}

/// A journal of a restore is only its vault's business.
#[test]
fn a_restore_half_way_is_not_rolled_back_without_its_vault() {
    let forger = Forger::new();
    let (clean, lesioned) = (&forger.clean[forger.row.clone()], &forger.lesioned[forger.row.clone()]);
    assert_eq!(run(&forger.place, &["unpatch", "{model}"]).0, 0);
    let vault = ["vault", "{model}", "--neuron", NEURON, "-o", "{out}/v.safetensors"];
    assert_eq!(run(&forger.place, &vault).0, 0);
    let journal = |before: &[u8], after: &[u8]| {
        let mut journal = forger.receipt("applying", before, after);
        journal["asked"] = json!([]);
        journal
    };
    let restore = ["restore", "{model}", "--vault={out}/v.safetensors"];
    forger.put(&forger.clean, &journal(lesioned, clean), lesioned);
    let before = forger.place.snapshot();
    refused(&forger.place, &["unpatch", "{model}"], "run `achilles-audit restore` with that again");
    assert!(forger.place.snapshot() == before);
    let (code, _, error) = run(&forger.place, &restore);
    assert_eq!(code, 0, "{error}");
    assert!(std::fs::read(forger.place.model().join("model.safetensors")).unwrap() == forger.clean);
    assert!(!forger.place.model().join("achilles-patch.json").exists());
    forger.put(&forger.lesioned, &journal(clean, lesioned), clean);
    refused(&forger.place, &restore, "is not the journal of a restore from this vault");
}
