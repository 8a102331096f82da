//! Fingerprints, verify and diff of packed weights: a row or column is named as its neuron, whatever holds it.

use super::diff::{Diff, diff};
use super::difference::{Difference, LineChange, Pattern, Repacked, TensorChange};
use super::fingerprint::{Fingerprint, FingerprintSettings, take};
use super::lesion::examine;
use super::pack::{Packed, encoded, fp8, w4a16};
use super::verify::verify;
use crate::checkpoint::header::Header;
use crate::checkpoint::packing::tests::{MODULE, forms, write};
use crate::checkpoint::packing::{Axis, NumberType, Span};
use crate::checkpoint::{Checkpoint, Opened};
use crate::progress::Silent;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

const FILE: &str = "model.safetensors";

fn fingerprint(folder: &Path) -> Fingerprint {
    let taken = take(&Opened::folder_at(folder), &FingerprintSettings::default(), None, None, &Silent).unwrap();
    assert_eq!(taken.problems, []);
    let text = taken.fingerprint.to_json("m", None).unwrap();
    assert_eq!(Fingerprint::parse(&text).unwrap(), taken.fingerprint);
    taken.fingerprint
}

/// What `verify` and `diff` find, without the files.
fn found(before: (&Path, &Fingerprint), after: &Path) -> [Vec<Difference>; 2] {
    let verified = verify(&Opened::folder_at(after), before.1, None, None, &Silent).unwrap();
    assert_eq!(verified.intact, verified.differences.is_empty());
    let not_files = |found: Vec<Difference>| -> Vec<Difference> {
        found.into_iter().filter(|d| !matches!(d, Difference::FileChanged { .. })).collect()
    };
    [not_files(verified.differences), not_files(diff_of(before.0, after).differences)]
}

fn diff_of(a: &Path, b: &Path) -> Diff {
    diff(&Opened::folder_at(a), &Opened::folder_at(b), &Silent).unwrap()
}

fn changed(found: &[Difference]) -> &TensorChange {
    match found {
        [Difference::TensorChanged(change)] => change,
        _ => panic!("{found:?}"),
    }
}

/// A copy of the folder whose file of weights is edited.
fn edited(folder: &Path, edit: impl FnOnce(&mut Vec<u8>)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for settings in ["config.json", "hf_quant_config.json"].into_iter().filter(|name| folder.join(name).exists()) {
        std::fs::copy(folder.join(settings), copy.path().join(settings)).unwrap();
    }
    let mut bytes = std::fs::read(folder.join(FILE)).unwrap();
    edit(&mut bytes);
    std::fs::write(copy.path().join(FILE), bytes).unwrap();
    copy
}

fn put(bytes: &mut [u8], span: Span, masks: impl IntoIterator<Item = (u8, u8)>) {
    let places = span.offsets().flat_map(|at| at..at + span.piece_bytes);
    for (at, (mask, code)) in places.zip(masks) {
        bytes[at as usize] = bytes[at as usize] & !mask | code;
    }
}

/// A copy with a row or column of the weight set to zero; none where its codes cannot hold that.
fn masked(folder: &Path, axis: Axis, index: usize) -> Option<tempfile::TempDir> {
    let tensors = Opened::folder_at(folder).tensors().unwrap();
    let weight = tensors.weight(&format!("{MODULE}.weight")).unwrap();
    let zero = weight.zero_codes(axis, index).ok()?;
    let codes = zero.mask.iter().copied().zip(zero.codes.iter().copied());
    Some(edited(folder, |bytes| put(bytes, zero.place.span, codes)))
}

fn neuron(axis: Axis, index: usize) -> String {
    format!("{MODULE}:{}:{index}", if axis == Axis::Row { "out" } else { "in" })
}

/// The one line that changed, held against what it has to be.
fn check_line(lines: &[LineChange], axis: Axis, index: usize, beta: f64, what: &str) {
    let [line] = lines else { panic!("{what}: {lines:?}") };
    assert_eq!((line.axis, line.index), (axis, index), "{what}: {line:?}");
    assert_eq!(line.neuron.as_ref().map(ToString::to_string), Some(neuron(axis, index)), "{what}");
    let told = line.beta.unwrap_or_else(|| panic!("{what}: no factor in {line:?}"));
    assert!((told - beta).abs() <= 1e-3 * beta.abs(), "{what}: {told}");
}

#[test]
fn a_masked_row_or_column_is_a_neuron_in_every_form() {
    for form in forms() {
        let folder = tempfile::tempdir().unwrap();
        write(&form, folder.path());
        let before = fingerprint(folder.path());
        let [weight] = &before.weights[..] else { panic!("{}: {:?}", form.name, before.weights) };
        assert_eq!((weight.name.as_str(), weight.stored.len()), (&*format!("{MODULE}.weight"), form.tensors.len()));
        assert_eq!(found((folder.path(), &before), folder.path()), [vec![], vec![]], "{}", form.name);
        let mut count = 0;
        for (axis, index) in [(Axis::Row, 0), (Axis::Row, 23), (Axis::Column, 0), (Axis::Column, 37)] {
            let lesioned = masked(folder.path(), axis, index).unwrap();
            for (found, by) in found((folder.path(), &before), lesioned.path()).iter().zip(["verify", "diff"]) {
                let what = format!("{by} {} {}", form.name, neuron(axis, index));
                let change = changed(found);
                check_line(&change.lines, axis, index, 0.0, &what);
                let packed = change.packed.as_ref().unwrap();
                assert_eq!((&packed.format, &packed.stored[..]), (&weight.format, &weight.stored[..1]), "{what}");
                let said = found[0].to_string();
                let line = format!(" {index} of {MODULE}.weight: all zero, was not (neuron ");
                assert!(said.starts_with("weight ") && said.contains(&line), "{said}");
            }
            count += 1;
        }
        assert!(count > 0, "{}", form.name);
    }
}

#[test]
fn a_row_whose_scales_are_multiplied_is_told_by_its_factor() {
    for form in forms().iter().filter(|form| form.scales) {
        let folder = tempfile::tempdir().unwrap();
        write(form, folder.path());
        let before = fingerprint(folder.path());
        let tensors = Opened::folder_at(folder.path()).tensors().unwrap();
        let weight = tensors.weight(&format!("{MODULE}.weight")).unwrap();
        let own = weight.own_scales(11).unwrap();
        let lesioned = edited(folder.path(), |bytes| {
            let number = NumberType::of(own.place.dtype);
            let scales: Vec<f64> = number.decode_all(&own.place.span.read(bytes).unwrap());
            let mut halved = Vec::new();
            scales.iter().for_each(|scale| _ = number.encode(scale * 0.5, &mut halved));
            put(bytes, own.place.span, halved.into_iter().map(|byte| (u8::MAX, byte)));
        });
        for (found, by) in found((folder.path(), &before), lesioned.path()).iter().zip(["verify", "diff"]) {
            check_line(&changed(found).lines, Axis::Row, 11, 0.5, &format!("{by} {}", form.name));
        }
    }
}

/// Every bit of the stored tensors; those that no value depends on are told of the tensor that they are in.
#[test]
fn every_flipped_bit_is_found() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let (mut of_weights, mut of_tensors) = (0, 0);
    for form in forms() {
        let folder = tempfile::tempdir().unwrap();
        write(&form, folder.path());
        let before = fingerprint(folder.path());
        let file = std::fs::read(folder.path().join(FILE)).unwrap();
        for tensor in Header::read(&file).unwrap().tensors {
            for _ in 0..4 {
                let at = random.random_range(tensor.bytes.start..tensor.bytes.end) as usize;
                let bit = 1 << random.random_range(0..8);
                let flipped = edited(folder.path(), |bytes| bytes[at] ^= bit);
                for found in found((folder.path(), &before), flipped.path()) {
                    // What breaks the packing leaves only what is stored.
                    let named = found.iter().any(|difference| match difference {
                        Difference::TensorChanged(TensorChange { packed: Some(packed), .. }) => {
                            of_weights += 1;
                            packed.stored == [tensor.name.clone()]
                        }
                        Difference::TensorChanged(change) => {
                            of_tensors += 1;
                            change.name == tensor.name
                        }
                        other => panic!("{other:?}"),
                    });
                    assert!(named, "{} {} byte {at}: {found:?}", form.name, tensor.name);
                }
            }
        }
    }
    println!("{of_weights} told of the weight, {of_tensors} of the stored tensor");
    assert!(of_weights > 100 && of_tensors > 10);
}

const ROWS: usize = 96;
const COLUMNS: usize = 128;
const SHAPE: [usize; 2] = [ROWS, COLUMNS];

type Pack = fn([usize; 2], &[f32]) -> Packed;

/// A weight before it is packed, its channels of different strength.
fn original(seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = || -> f64 { StandardNormal.sample(&mut random) };
    let strengths: Vec<f64> = (0..ROWS + COLUMNS).map(|_| (0.3 * normal()).exp()).collect();
    let value = |at: usize| strengths[at / COLUMNS] * strengths[ROWS + at % COLUMNS];
    (0..ROWS * COLUMNS).map(|at| (0.02 * value(at) * normal()) as f32).collect()
}

fn dense(values: &[f32]) -> Packed {
    let bytes = encoded(Dtype::BF16, values.iter().map(|v| f64::from(*v)));
    Packed { settings: None, parts: vec![(".weight", Dtype::BF16, vec![ROWS, COLUMNS], bytes)] }
}

fn model(Packed { settings, parts }: Packed) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = settings.map_or(json!({}), |settings| json!({"quantization_config": settings}));
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let views = parts.iter().map(|(end, dtype, shape, bytes)| {
        (format!("{MODULE}{end}"), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &folder.path().join(FILE)).unwrap();
    folder
}

/// The table for FP8 and four bits as it is for dense weights: all of 50 masked rows and of 50 masked columns are named.
#[test]
fn all_of_fifty_masked_rows_and_columns_are_named() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    for (form, packed) in [("FP8", fp8(SHAPE, &original(5))), ("INT4", w4a16(SHAPE, &original(5)))] {
        let clean = model(packed);
        let before = fingerprint(clean.path());
        assert_eq!(before.weights[0].format, form);
        for (axis, of) in [(Axis::Row, ROWS), (Axis::Column, COLUMNS)] {
            let mut named = [0, 0];
            for _ in 0..50 {
                let index = random.random_range(0..of);
                let lesioned = masked(clean.path(), axis, index).unwrap();
                for (named, found) in named.iter_mut().zip(found((clean.path(), &before), lesioned.path())) {
                    check_line(&changed(&found).lines, axis, index, 0.0, form);
                    *named += 1;
                }
            }
            assert_eq!(named, [50, 50], "{form} {axis:?}");
            println!("{form} {}s: {named:?} of 50 by verify and diff", axis.as_str());
        }
    }
}

fn repacked(found: &[Difference]) -> &Repacked {
    match found {
        [Difference::WeightRepacked(weight)] => weight,
        _ => panic!("{found:?}"),
    }
}

/// An original beside what was quantized of it: nothing stands out but what was masked or scaled.
#[test]
fn an_original_beside_its_packed_form_shows_what_is_not_rounding() {
    let values = original(6);
    let plain = model(dense(&values));
    let forms: [(&str, Pack, [f64; 2]); 2] = [("FP8", fp8, [0.02, 0.035]), ("INT4", w4a16, [0.07, 0.13])];
    for (form, pack, [least, most]) in forms {
        let clean = model(pack(SHAPE, &values));
        let of = |a: &Path, b: &Path| {
            let mut found = diff_of(a, b).differences;
            found.retain(|d| !matches!(d, Difference::FileChanged { .. }));
            repacked(&found).clone()
        };
        let weight = of(plain.path(), clean.path());
        assert_eq!(
            (weight.before.as_str(), weight.after.as_str(), &weight.shape[..]),
            ("BF16", form, &[ROWS, COLUMNS][..])
        );
        let error = weight.relative_error.unwrap();
        assert!((least..most).contains(&error), "{form}: {error}");
        assert_eq!((weight.lines.len(), weight.rows, weight.columns), (0, ROWS, COLUMNS), "{form}: {weight:?}");
        for (axis, of_axis) in [(Axis::Row, ROWS), (Axis::Column, COLUMNS)] {
            for index in (0..of_axis).step_by(9) {
                let lesioned = masked(clean.path(), axis, index).unwrap();
                let weight = of(plain.path(), lesioned.path());
                check_line(&weight.lines, axis, index, 0.0, form);
                assert_eq!(weight.rows_standing_out + weight.columns_standing_out, 1);
            }
        }
        // Scaled before it was packed.
        let mut scaled = values.clone();
        scaled[7 * COLUMNS..8 * COLUMNS].iter_mut().for_each(|v| *v *= 0.5);
        let weight = of(plain.path(), model(pack(SHAPE, &scaled)).path());
        let [line] = &weight.lines[..] else { panic!("{weight:?}") };
        assert_eq!((line.axis, line.index), (Axis::Row, 7));
        assert!((line.beta.unwrap() - 0.5).abs() < 0.02, "{line:?}");
    }
    let (a, b) = (model(fp8(SHAPE, &values)), model(w4a16(SHAPE, &values)));
    let found = diff_of(a.path(), b.path()).differences;
    let weight =
        found.iter().find_map(|d| if let Difference::WeightRepacked(weight) = d { Some(weight) } else { None });
    assert_eq!(weight.map(|weight| weight.lines.len()), Some(0), "{found:?}");
    let said = weight.map(|weight| Difference::WeightRepacked(weight.clone()).to_string()).unwrap();
    assert!(
        said.starts_with(&format!("weight {MODULE}.weight [96, 128]: is INT4, was FP8, relative error ")),
        "{said}"
    );
}

/// A masked row that was packed anew, so that all rows of its blocks changed with it.
#[test]
fn a_row_that_was_masked_before_it_was_packed_is_named_among_others_that_changed() {
    let values = original(8);
    let mut other = values.clone();
    other.iter_mut().for_each(|v| *v *= 1.03);
    other[40 * COLUMNS..41 * COLUMNS].fill(0.0);
    for pack in [fp8, w4a16] as [Pack; 2] {
        let (clean, lesioned) = (model(pack(SHAPE, &values)), model(pack(SHAPE, &other)));
        let before = fingerprint(clean.path());
        for found in found((clean.path(), &before), lesioned.path()) {
            let change = changed(&found);
            assert_eq!(change.pattern, Pattern::Dense);
            check_line(&change.lines, Axis::Row, 40, 0.0, "anew");
        }
    }
}

#[test]
fn a_dense_fingerprint_says_nothing_of_weights() {
    let folder = model(dense(&original(1)));
    let taken = fingerprint(folder.path());
    assert_eq!((taken.weights.len(), taken.weights_digest()), (0, None));
    assert!(!taken.to_json("m", None).unwrap().contains("weights"));
}

#[test]
fn a_fingerprint_whose_weights_were_edited_is_refused() {
    let folder = model(fp8(SHAPE, &original(1)));
    let text = fingerprint(folder.path()).to_json("m", None).unwrap();
    let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let refused = |document: &serde_json::Value| Fingerprint::parse(&document.to_string()).unwrap_err();
    document["weights"][0]["format"] = "INT8".into();
    assert!(refused(&document).contains("its weights_blake3 is not that of what it lists"));
    document["weights"][0]["stored"][1] = "other".into();
    assert!(refused(&document).contains("is made of other, which is not among the tensors"));
    document["weights"] = json!([]);
    assert!(refused(&document).contains("weights_blake3"));
    // One of an earlier version knows no weights, and what is stored is told as it is.
    let mut earlier = Fingerprint::parse(&text).unwrap();
    earlier.weights.clear();
    let lesioned = masked(folder.path(), Axis::Row, 3).unwrap();
    let [verified, _] = found((folder.path(), &earlier), lesioned.path());
    let change = changed(&verified);
    assert_eq!((&change.packed, change.dtype, change.lines[0].index), (&None, Dtype::F8_E4M3, 3));
}

/// What the quantizers' own libraries wrote: a clean one has no indicator of a lesion, and a masked row or column is named by
/// verify, diff and the indicators of a lesion.
#[test]
fn a_masked_row_or_column_of_what_quantizers_wrote_is_named() {
    let (mut forms, mut count) = (BTreeSet::new(), 0);
    for fixture in std::fs::read_dir("fixtures/packed").unwrap().map(|entry| entry.unwrap().path()) {
        if !fixture.join(FILE).exists() {
            continue;
        }
        let (what, clean) = (fixture.display(), edited(&fixture, |_| ()));
        let clean = clean.path();
        let before = fingerprint(clean);
        let indicators = |folder: &Path| -> Vec<String> {
            let report = examine(&Checkpoint::open(folder.to_str().unwrap(), &Silent).unwrap(), &Silent).unwrap();
            report.indicators.iter().map(|found| found.neuron.to_string()).collect()
        };
        assert_eq!(indicators(clean), [""; 0], "{what}");
        let tensors = Opened::folder_at(clean).tensors().unwrap();
        let weights = tensors.weights();
        assert_eq!(weights.iter().filter(|weight| weight.is_packed()).count(), before.weights.len(), "{what}");
        let weight = weights.iter().find(|weight| weight.is_packed()).unwrap();
        forms.insert(weight.format());
        // Of a stack, the second expert.
        let (module, before_it) = match weight.shape() {
            [_, rows, columns] => (weight.name().replacen(".experts.", ".experts.1.", 1), [*rows, *columns]),
            _ => (weight.name().strip_suffix(".weight").unwrap().to_owned(), [0, 0]),
        };
        for (axis, side, before_it) in [(Axis::Row, "out", before_it[0]), (Axis::Column, "in", before_it[1])] {
            let zero = weight.zero_codes(axis, before_it + 3).unwrap();
            let codes = zero.mask.iter().copied().zip(zero.codes.iter().copied());
            let lesioned = edited(clean, |bytes| put(bytes, zero.place.span, codes));
            let neuron = format!("{module}:{side}:3");
            for found in found((clean, &before), lesioned.path()) {
                let change = found.iter().find_map(|d| match d {
                    Difference::TensorChanged(change) if change.name == weight.name() => Some(change),
                    _ => None,
                });
                let [line] = &change.unwrap().lines[..] else { panic!("{what}: {found:?}") };
                assert_eq!(line.neuron.as_ref().map(ToString::to_string), Some(neuron.clone()), "{what}");
                assert_eq!(line.beta, Some(0.0), "{what}");
            }
            assert_eq!(indicators(lesioned.path()), [neuron], "{what}");
            count += 1;
        }
    }
    println!("{count} masks in {forms:?}");
    assert!(forms.len() >= 5 && count >= 30 && forms.contains("MXFP4"));
}
