//! Runs that are killed and disks that are full: a patched checkpoint is the old one, the new one, or says that it is
//! unfinished and is mended by the next run. `ACHILLES_KILLS=200` kills so many runs of each kind.

use crate::tiny::{self, Place, Tensor};
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::ConfigFile;
use achilles_audit::patch::{Folder, RECEIPT, Receipt, State, UNDO};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const LAYERS: usize = 16;

type Files = BTreeMap<String, Vec<u8>>;

/// A llama of 2 MB in a shard a layer, in place of the tiny one.
fn larger(place: &Place) {
    let (model, mut index) = (place.model(), serde_json::Map::new());
    let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": LAYERS,
        "vocab_size": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true});
    std::fs::remove_file(model.join("model.safetensors")).unwrap();
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let recipe = Recipe::read(&ConfigFile::read(&model.join("config.json")).unwrap()).unwrap();
    let random = &mut ChaCha8Rng::seed_from_u64(7);
    let shard_of = |name: &str| {
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let at = layer.map_or(1, |(at, _)| at.parse::<usize>().unwrap() + 1);
        format!("model-{at:05}-of-{LAYERS:05}.safetensors")
    };
    let mut shards: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
    for (name, shape) in recipe.tensors() {
        let elements = shape.iter().product::<usize>();
        let bytes = (0..elements).flat_map(|_| half::bf16::from_f32(random.random_range(0.1..1.0)).to_le_bytes());
        let tensor = Tensor { name: name.clone(), dtype: "BF16".into(), shape, bytes: bytes.collect() };
        index.insert(name.clone(), shard_of(&name).into());
        shards.entry(shard_of(&name)).or_default().push(tensor);
    }
    for (name, tensors) in shards {
        std::fs::write(model.join(name), tiny::save(&tensors)).unwrap();
    }
    std::fs::write(model.join("model.safetensors.index.json"), json!({"weight_map": index}).to_string()).unwrap();
}

/// A patch of a row and some columns of every layer.
fn patch(to: &[&str]) -> Vec<String> {
    let neurons = (0..LAYERS).flat_map(|layer| {
        ["mlp.down_proj:out:3", "self_attn.q_proj:in:7", "mlp.act_fn:out:5", "mlp.act_fn:out:6", "mlp.up_proj:in:7"]
            .map(|name| format!("L{layer}.{name}"))
    });
    let args = neurons.flat_map(|neuron| ["--neuron".to_owned(), neuron]);
    ["patch", "{model}", "--beta", "0.3"].iter().chain(to).map(|s| (*s).to_owned()).chain(args).collect()
}

fn command(place: &Place, args: &[String]) -> Command {
    place.command(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn good(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The weights of a folder.
fn weights(folder: &Path) -> Files {
    let mut files = all(folder);
    files.retain(|name, _| name.ends_with(".safetensors"));
    files
}

fn all(folder: &Path) -> Files {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

/// What is there beside the folder that a run writes to.
fn left_beside(place: &Place) -> usize {
    std::fs::read_dir(place.out()).unwrap().filter(|e| e.as_ref().unwrap().file_name() != "p").count()
}

/// Kills a run, with a signal it cannot catch, `after` its start. Whether it was still running.
fn kill(mut command: Command, after: Duration) -> bool {
    let started = Instant::now();
    let mut child = command.spawn().unwrap();
    // Asleep: the child needs the processor.
    std::thread::sleep(after.saturating_sub(started.elapsed()));
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

/// How many runs of each kind are killed.
fn kills() -> usize {
    std::env::var("ACHILLES_KILLS").ok().map_or(25, |text| text.parse().unwrap())
}

/// A point of a run that takes `whole`, every one as likely.
fn point(random: &mut ChaCha8Rng, whole: Duration) -> Duration {
    whole.mul_f64(random.random_range(0.0..1.0))
}

/// How long a run takes now, undone after it. Other tests come and go beside this one: it is measured for every kill.
fn duration(run: impl Fn(), undo: impl Fn()) -> Duration {
    let started = Instant::now();
    run();
    let took = started.elapsed();
    undo();
    took
}

#[test]
fn killed_anywhere_a_patch_in_place_is_whole_or_is_mended_by_the_next_run() {
    let place = Place::new();
    larger(&place);
    let in_place = patch(&["--in-place"]);
    let undo = ["unpatch".to_owned(), "{model}".to_owned()];
    let old = all(&place.model());
    good(command(&place, &in_place));
    let new = weights(&place.model());
    good(command(&place, &undo));
    assert!(all(&place.model()) == old && new != weights(&place.model()));
    let whole = || duration(|| drop(good(command(&place, &in_place))), || drop(good(command(&place, &undo))));
    let random = &mut ChaCha8Rng::seed_from_u64(1);
    let (mut running, mut unfinished, mut mixed, mut total) = (0, 0, 0, Duration::ZERO);
    let mut points = 0;
    // On a busy machine a run is slower than the one that was timed, and more kills come before it writes.
    while points < kills() || (unfinished < kills() / 5 && points < 8 * kills()) {
        points += 1;
        let whole = whole();
        total += whole;
        let after = point(random, whole);
        running += usize::from(kill(command(&place, &in_place), after));
        let now = weights(&place.model());
        match Receipt::read(&place.model()).unwrap().map(|receipt| receipt.state) {
            None => assert!(now == without_json(&old), "killed after {after:?}"),
            Some(State::Applied) => assert!(now == new, "killed after {after:?}"),
            Some(_) => {
                unfinished += 1;
                mixed += usize::from(now != new && now != without_json(&old));
            }
        }
        if points % 2 == 1 {
            // The same again, killed as well, and again.
            running += usize::from(kill(command(&place, &in_place), point(random, whole)));
            let left = Receipt::read(&place.model()).unwrap().map(|receipt| receipt.state);
            if left.is_some_and(|state| state != State::Applied) {
                good(command(&place, &undo));
            }
            if left != Some(State::Applied) {
                good(command(&place, &in_place));
            }
            assert!(weights(&place.model()) == new, "killed after {after:?}");
        }
        // The way back, killed as well.
        if Receipt::read(&place.model()).unwrap().is_some() {
            kill(command(&place, &undo), point(random, whole));
        }
        if Receipt::read(&place.model()).unwrap().is_some() {
            good(command(&place, &undo));
        }
        drop(Folder::lock(&place.model()).unwrap());
        assert!(all(&place.model()) == old, "killed after {after:?}");
    }
    let runs = points + points.div_ceil(2);
    println!(
        "in place, {:?} a run: {running} of {runs} runs killed before their end; of the {points} first ones {unfinished} \
         were found unfinished, {mixed} with old and new bytes side by side",
        total / points as u32
    );
    assert!(unfinished >= kills() / 5, "{unfinished}");
}

/// A GGUF's receipt lies beside it, and so does what is left of a run that was killed.
#[test]
fn killed_anywhere_a_patch_of_a_gguf_is_whole_or_is_mended_by_the_next_run() {
    let place = Place::new();
    let folder = place.out().join("p");
    std::fs::create_dir(&folder).unwrap();
    let [path, new] = ["m.gguf", "new.gguf"].map(|name| folder.join(name));
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/gguf/tiny-llama.gguf"), &path).unwrap();
    let rows = (0..32).flat_map(|row| ["mlp.down_proj", "self_attn.o_proj"].map(|name| format!("L1.{name}:out:{row}")));
    let columns = (0..32).map(|column| format!("L0.self_attn.q_proj:in:{column}"));
    let neurons: Vec<String> = rows.chain(columns).flat_map(|neuron| ["--neuron".to_owned(), neuron]).collect();
    let patch = |to: &[&str]| {
        let start = ["patch", "{out}/p/m.gguf"].iter().chain(to).map(|s| (*s).to_owned());
        start.chain(neurons.clone()).collect::<Vec<_>>()
    };
    let (in_place, to_file) = (patch(&["--in-place"]), patch(&["-o", "{out}/p/new.gguf"]));
    let undo = |name: &str| ["unpatch".to_owned(), format!("{{out}}/p/{name}")];
    let old = all(&folder);
    good(command(&place, &in_place));
    let changed = all(&folder)["m.gguf"].clone();
    good(command(&place, &undo("m.gguf")));
    assert!(all(&folder) == old && changed != old["m.gguf"]);
    let random = &mut ChaCha8Rng::seed_from_u64(5);
    let (mut unfinished, mut running) = (0, 0);
    for _ in 0..kills() {
        let run = || drop(good(command(&place, &in_place)));
        let whole = duration(run, || drop(good(command(&place, &undo("m.gguf")))));
        running += usize::from(kill(command(&place, &in_place), point(random, whole)));
        let now = all(&folder)["m.gguf"].clone();
        match Receipt::read(&path).unwrap().map(|receipt| receipt.state) {
            None => assert!(now == old["m.gguf"]),
            Some(State::Applied) => assert!(now == changed),
            Some(_) => unfinished += 1,
        }
        if Receipt::read(&path).unwrap().is_some() {
            kill(command(&place, &undo("m.gguf")), point(random, whole));
        }
        if Receipt::read(&path).unwrap().is_some() {
            good(command(&place, &undo("m.gguf")));
        }
        drop(Folder::lock(&path).unwrap());
        assert!(all(&folder) == old);

        running += usize::from(kill(command(&place, &to_file), point(random, whole)));
        assert!(!new.exists() || std::fs::read(&new).unwrap() == changed && Receipt::read(&new).unwrap().is_some());
        let undone = || {
            good(command(&place, &undo("new.gguf")));
            assert!(std::fs::read(&new).unwrap() == old["m.gguf"]);
            std::fs::remove_file(&new).unwrap();
        };
        if new.exists() {
            undone();
        }
        // Whatever is left of the run that was killed, the next one goes on and leaves nothing of it.
        good(command(&place, &to_file));
        undone();
        assert!(all(&folder) == old);
    }
    println!("a GGUF: {running} of {} runs killed before their end, {unfinished} found unfinished", 2 * kills());
    assert!(running >= kills() / 2, "{running}");
}

fn without_json(files: &Files) -> Files {
    files.iter().filter(|(n, _)| n.ends_with(".safetensors")).map(|(n, b)| (n.clone(), b.clone())).collect()
}

#[test]
fn killed_anywhere_a_patch_to_a_folder_is_whole_or_is_not_there() {
    let place = Place::new();
    larger(&place);
    let to_folder = patch(&["-o", "{out}/p"]);
    let (old, out) = (all(&place.model()), place.out().join("p"));
    good(command(&place, &to_folder));
    let new = weights(&out);
    assert!(new != weights(&place.model()) && new.len() == LAYERS);
    let remove = || std::fs::remove_dir_all(&out).unwrap();
    remove();
    let whole = || duration(|| drop(good(command(&place, &to_folder))), remove);
    let random = &mut ChaCha8Rng::seed_from_u64(2);
    let (mut running, mut unfinished, mut total) = (0, 0, Duration::ZERO);
    for _ in 0..kills() {
        let whole = whole();
        total += whole;
        let after = point(random, whole);
        running += usize::from(kill(command(&place, &to_folder), after));
        match out.exists() {
            true => assert!(weights(&out) == new && all(&out).len() == old.len() + 2, "killed after {after:?}"),
            false => {
                let left = left_beside(&place);
                unfinished += left;
                if left > 0 {
                    let next = good(command(&place, &to_folder));
                    let said = String::from_utf8(next.stderr).unwrap();
                    assert!(said.contains("removed what a stopped run had left"), "{said}");
                    assert!(weights(&out) == new);
                }
            }
        }
        assert_eq!(left_beside(&place), 0);
        if out.exists() {
            good(command(&place, &["unpatch".to_owned(), "{out}/p".to_owned()]));
            assert!(all(&out) == old);
            std::fs::remove_dir_all(&out).unwrap();
        }
        assert!(all(&place.model()) == old, "killed after {after:?}");
    }
    let (runs, whole) = (kills(), total / kills() as u32);
    println!("to a folder, {whole:?} a run: {running} of {runs} runs killed before their end, {unfinished} half-way");
    assert!(unfinished >= kills() / 20, "{unfinished}");
}

/// A file system of its own, which can be full.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// None where this process may not mount one.
    fn mount(at: PathBuf) -> Option<Tmpfs> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(&at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Tmpfs(at));
        }
        println!(
            "no file system can be mounted here, so this test shows nothing; failing writers are tested in patch/"
        );
        None
    }

    /// Leaves `free` bytes.
    fn fill(&self, free: u64) {
        let path = self.0.join("filler");
        let mut filler = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let page = [0; 4096];
        while filler.write_all(&page).is_ok() {}
        let length = filler.metadata().unwrap().len();
        filler.set_len(length.saturating_sub(free)).unwrap();
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).output().unwrap();
    }
}

fn refused_for_space(mut command: Command) -> bool {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let refused = output.status.code() == Some(2) && said.contains("No space left") && said.lines().count() == 1;
    assert!(refused || output.status.success(), "{said}");
    refused
}

#[test]
fn on_a_full_disk_a_patch_in_place_changes_nothing() {
    let place = Place::new();
    larger(&place);
    let kept = all(&place.model());
    let Some(disk) = Tmpfs::mount(place.model()) else { return };
    kept.iter().for_each(|(name, bytes)| std::fs::write(place.model().join(name), bytes).unwrap());
    let now = |disk: &Tmpfs| {
        disk.empty();
        all(&place.model())
    };
    let in_place = patch(&["--in-place"]);
    let mut refused = 0;
    while {
        disk.fill(refused * 4096);
        refused_for_space(command(&place, &in_place))
    } {
        assert!(now(&disk) == kept, "{refused} pages free");
        refused += 1;
    }
    let new = now(&disk);
    assert!(new.len() == kept.len() + 2 && weights(&place.model()) != without_json(&kept));
    let mut stuck = 0;
    while {
        disk.fill(stuck * 4096);
        refused_for_space(command(&place, &["unpatch".to_owned(), "{model}".to_owned()]))
    } {
        assert!(now(&disk) == new, "{stuck} pages free");
        stuck += 1;
    }
    assert!(now(&disk) == kept);
    println!("in place: refused with 0 to {refused} free pages; unpatch with 0 to {stuck}");
    assert!(refused >= 5 && stuck >= 1, "{refused} {stuck}");

    // A vault puts its bytes back under the same journal.
    let neurons = ["--neuron", "L1.mlp.down_proj:out:3", "--neuron", "L6.mlp.act_fn:out:5"];
    let keep = [&["vault", "{model}", "-o", "{out}/v.safetensors"], neurons.as_slice()].concat();
    good(place.command(&keep));
    good(place.command(&[&["patch", "{model}", "--in-place"], neurons.as_slice()].concat()));
    for name in [UNDO, RECEIPT] {
        std::fs::remove_file(place.model().join(name)).unwrap();
    }
    let damaged = all(&place.model());
    let mut refused = 0;
    while {
        disk.fill(refused * 4096);
        refused_for_space(place.command(&["restore", "{model}", "--vault", "{out}/v.safetensors"]))
    } {
        assert!(now(&disk) == damaged, "{refused} pages free");
        refused += 1;
    }
    assert!(now(&disk) == kept && refused >= 2, "{refused}");
}

#[test]
fn on_a_full_disk_a_patch_to_a_folder_leaves_nothing() {
    let place = Place::new();
    larger(&place);
    let Some(disk) = Tmpfs::mount(place.out()) else { return };
    let to_folder = patch(&["-o", "{out}/p"]);
    let needed: u64 = all(&place.model()).values().map(|bytes| bytes.len() as u64).sum();
    let levels = 24;
    let mut refused = 0;
    for level in 0..=levels + 2 {
        disk.fill((needed * level / levels).next_multiple_of(4096));
        if refused_for_space(command(&place, &to_folder)) {
            refused += 1;
        } else {
            std::fs::remove_dir_all(place.out().join("p")).unwrap();
        }
        disk.empty();
        assert!(all(&place.out()).is_empty(), "{level}/{levels} of the disk free");
    }
    println!("to a folder: refused at {refused} of {} levels", levels + 3);
    assert!(refused >= levels && refused <= levels + 2, "{refused}");
}
