//! Whatever is wrong with what it is given: one clear line, exit code 2, nothing written, no panic.

mod checkpoint;
mod corpora;
mod settings;
mod signatures;
mod text;

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
