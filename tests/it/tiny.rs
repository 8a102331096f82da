//! The tiny llama of fixtures/ as a model folder in a fresh place, and runs of the binary on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A text that is long enough to be stable.
pub const TEXT: &str = "The capital of France is Paris.";

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

/// A place with `in/model`, an empty `out`, and a hub cache of its own.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Place {
        // Not in /tmp, which may lie in memory: no cache keeps what lies there.
        let place = Place(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        std::fs::create_dir_all(place.model()).unwrap();
        std::fs::create_dir(place.out()).unwrap();
        for file in ["llama/config.json", "llama/model.safetensors", "tokenizer.json"] {
            let from = Path::new(FIXTURES).join(file);
            std::fs::copy(&from, place.model().join(from.file_name().unwrap())).unwrap();
        }
        place
    }

    pub fn model(&self) -> PathBuf {
        self.0.path().join("in/model")
    }

    pub fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    /// The binary with these arguments, in which `{in}`, `{model}` and `{out}` stand for this place's folders. No hub
    /// can be reached from it.
    pub fn command(&self, args: &[&str]) -> Command {
        let path = |p: PathBuf| p.into_os_string().into_string().unwrap();
        let (input, model, out) = (path(self.0.path().join("in")), path(self.model()), path(self.out()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_achilles-audit"));
        command.args(args.iter().map(|a| a.replace("{in}", &input).replace("{model}", &model).replace("{out}", &out)));
        command.env_clear().env("HOME", self.0.path()).env("HF_HOME", self.0.path().join("hub"));
        command.env("HF_ENDPOINT", "http://127.0.0.1:9");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Every file and folder with its bytes (of files so large that they must be sparse, their length).
    pub fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let (path, length) = (entry.path(), entry.metadata().unwrap().len());
                let bytes = match path.is_dir() {
                    true => Vec::new(),
                    false if length > 1 << 30 => length.to_le_bytes().to_vec(),
                    false => std::fs::read(&path).unwrap(),
                };
                if path.is_dir() {
                    folders.push(path.clone());
                }
                found.insert(path, bytes);
            }
        }
        found
    }
}

/// Its output, or a failure where it takes longer than `seconds`.
pub fn wait(mut child: Child, seconds: u64) -> Result<Output, String> {
    let end = Instant::now() + Duration::from_secs(seconds);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err(format!("still running after {seconds} s"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child.wait_with_output().unwrap())
}

/// One tensor of a safetensors file.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// The header's JSON and the data after it.
pub fn split(file: &[u8]) -> (String, Vec<u8>) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (String::from_utf8(file[8..8 + length].to_vec()).unwrap(), file[8 + length..].to_vec())
}

/// A safetensors file of a header, whatever it says, and data.
pub fn join(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

pub fn load(file: &[u8]) -> Vec<Tensor> {
    let (header, data) = split(file);
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&header).unwrap();
    let tensor = |(name, entry): (&String, &serde_json::Value)| {
        let numbers = |key: &str| serde_json::from_value::<Vec<usize>>(entry[key].clone()).unwrap();
        let offsets = numbers("data_offsets");
        Tensor {
            name: name.clone(),
            dtype: entry["dtype"].as_str().unwrap().into(),
            shape: numbers("shape"),
            bytes: data[offsets[0]..offsets[1]].to_vec(),
        }
    };
    header.iter().filter(|(name, _)| *name != "__metadata__").map(tensor).collect()
}

pub fn save(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for t in tensors {
        let from = data.len();
        data.extend(&t.bytes);
        let entry = serde_json::json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [from, data.len()]});
        header.insert(t.name.clone(), entry);
    }
    join(serde_json::to_string(&header).unwrap().as_bytes(), &data)
}
