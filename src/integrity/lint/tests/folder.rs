//! Copies of a fixture that tests take apart and change.

use super::{FIRST, FIXTURES, INDEX, SECOND};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A safetensors file taken apart.
pub struct RawShard {
    pub header: serde_json::Map<String, Value>,
    pub data: Vec<u8>,
}

impl RawShard {
    pub fn read(path: &Path) -> RawShard {
        let bytes = fs::read(path).unwrap();
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        RawShard { header: serde_json::from_slice(&bytes[8..end]).unwrap(), data: bytes[end..].to_vec() }
    }

    /// The header, padded so that tensors are aligned.
    pub fn text(&self) -> String {
        let text = serde_json::to_string(&self.header).unwrap();
        let pad = " ".repeat(text.len().next_multiple_of(8) - text.len());
        text + &pad
    }

    pub fn range(&self, name: &str) -> std::ops::Range<usize> {
        let offset = |at: usize| self.header[name]["data_offsets"][at].as_u64().unwrap() as usize;
        offset(0)..offset(1)
    }

    /// Adds a tensor of zeros at the end.
    pub fn push(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        let (from, to) = (self.data.len(), self.data.len() + bytes.len());
        self.data.extend(bytes);
        self.header.insert(name.into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [from, to]}));
    }

    pub fn remove(&mut self, name: &str) {
        let range = self.range(name);
        self.data.drain(range.clone());
        self.header.shift_remove(name);
        for (_, entry) in self.header.iter_mut().filter(|(name, _)| *name != "__metadata__") {
            for offset in entry["data_offsets"].as_array_mut().unwrap() {
                let old = offset.as_u64().unwrap() as usize;
                *offset = json!(if old >= range.end { old - range.len() } else { old });
            }
        }
    }
}

/// A copy of the tiny llama, in one file or in two with an index.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn whole() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        for file in ["llama/config.json", "llama/model.safetensors", "tokenizer.json"] {
            let from = Path::new(FIXTURES).join(file);
            fs::copy(&from, folder.path(from.file_name().unwrap().to_str().unwrap())).unwrap();
        }
        folder
    }

    pub fn sharded() -> Folder {
        let folder = Folder::whole();
        let whole = RawShard::read(&folder.path("model.safetensors"));
        let mut shards = [(); 2].map(|()| RawShard { header: serde_json::Map::new(), data: Vec::new() });
        let mut map = serde_json::Map::new();
        for shard in &mut shards {
            shard.header.insert("__metadata__".into(), whole.header["__metadata__"].clone());
        }
        let names: Vec<&String> = whole.header.keys().filter(|n| *n != "__metadata__").collect();
        for (at, name) in names.iter().enumerate() {
            let which = usize::from(at >= names.len() / 2);
            let shape: Vec<usize> = serde_json::from_value(whole.header[*name]["shape"].clone()).unwrap();
            let dtype = whole.header[*name]["dtype"].as_str().unwrap();
            shards[which].push(name, dtype, &shape, &whole.data[whole.range(name)]);
            map.insert((*name).clone(), [FIRST, SECOND][which].into());
        }
        let index = json!({"metadata": {"total_size": whole.data.len()}, "weight_map": map});
        fs::remove_file(folder.path("model.safetensors")).unwrap();
        folder.write(FIRST, &file(&shards[0].text(), &shards[0].data));
        folder.write(SECOND, &file(&shards[1].text(), &shards[1].data));
        folder.write(INDEX, index.to_string().as_bytes());
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    pub fn copy(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
    }

    /// Changes model.safetensors, taken apart.
    pub fn shard(&self, change: impl FnOnce(&mut RawShard)) {
        let mut shard = RawShard::read(&self.path("model.safetensors"));
        change(&mut shard);
        self.write("model.safetensors", &file(&shard.text(), &shard.data));
    }

    /// Changes the header's text, which goes into the file as it is.
    pub fn header(&self, change: impl FnOnce(String) -> String) {
        let shard = RawShard::read(&self.path("model.safetensors"));
        self.write("model.safetensors", &file(&change(shard.text()), &shard.data));
    }

    pub fn entry(&self, name: &str, field: &str, value: Value) {
        self.shard(|s| s.header[name][field] = value);
    }

    /// Sets elements (f32) of a tensor.
    pub fn values(&self, name: &str, elements: impl IntoIterator<Item = usize>, value: f32) {
        self.shard(|s| {
            let start = s.range(name).start;
            for element in elements {
                let at = start + 4 * element;
                s.data[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
        });
    }

    pub fn json(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        change(&mut value);
        self.write(name, value.to_string().as_bytes());
    }

    pub fn index(&self, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
        self.json(INDEX, |v| change(v["weight_map"].as_object_mut().unwrap()));
    }
}

pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}
