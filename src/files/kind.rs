//! What files of weights are called, and those that loaders look for beside them.

/// What loaders of safetensors and pickles read, and their indexes.
const USUAL: &[&str] = &[".safetensors", ".safetensors.index.json", ".bin.index.json"];
const KERAS: &[&str] = &[".h5", ".hdf5", ".keras"];
/// Weights that some loaders prefer to safetensors, or take where the user names them.
const OTHER: &[&str] =
    &[".gguf", ".ggml", ".npz", ".nemo", ".pdparams", ".pdiparams", ".params", ".caffemodel", ".mar"];
/// What projects publish beside the weights for other runtimes.
const CONVERTED: &[&str] = &[
    ".onnx",
    ".onnx_data",
    ".onnx.data",
    ".ort",
    ".msgpack",
    ".tflite",
    ".mlmodel",
    ".mlpackage",
    ".pte",
    ".litertlm",
];
/// They can run code and are never read.
const PICKLES: &[&str] = &[".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".pt2", ".ptl"];
const COMPRESSED: &[&str] = &[".gz", ".bz2", ".xz", ".zst", ".lz4", ".z", ".zip", ".lzma"];
/// Weights with the code that computes with them.
const ENGINES: &[&str] = &[".engine", ".plan", ".trt", ".llamafile"];

/// Whether a file holds weights of any kind, or says which files do, by its name.
pub fn is_weights(name: &str) -> bool {
    let other = [is_pickle_name, is_keras, is_other_weights, is_converted, is_engine];
    ends(name, USUAL) || other.iter().any(|is| is(name))
}

/// Whether transformers, vLLM or their kin look for a file beside the weights, by its name.
pub fn is_beside_weights(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "config.json",
        "params.json",
        "generation_config.json",
        "adapter_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "tekken.json",
        "chat_template.json",
        "processor_config.json",
        "preprocessor_config.json",
        "image_processor_config.json",
        "video_preprocessor_config.json",
    ];
    NAMES.contains(&name)
        || name.starts_with("tokenizer.")
        || [".py", ".jinja", ".model", ".tiktoken"].iter().any(|end| name.ends_with(end))
}

/// Whether a file is named as a pickle, or as one that was compressed.
pub fn is_pickle_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let plain = COMPRESSED.iter().find_map(|end| lower.strip_suffix(end)).unwrap_or(&lower);
    PICKLES.iter().any(|end| plain.ends_with(end))
}

/// Whether a file is named as a Keras or HDF5 model.
pub fn is_keras(name: &str) -> bool {
    ends(name, KERAS)
}

/// Whether a file is named as weights that are not examined.
pub fn is_other_weights(name: &str) -> bool {
    ends(name, OTHER)
}

/// Whether a file is named as a conversion of a model for another runtime.
pub fn is_converted(name: &str) -> bool {
    ends(name, CONVERTED)
}

/// Whether a file is named as an engine: weights that were compiled.
pub fn is_engine(name: &str) -> bool {
    ends(name, ENGINES)
}

fn ends(name: &str, ends: &[&str]) -> bool {
    let lower = name.trim_end().to_ascii_lowercase();
    ends.iter().any(|end| lower.ends_with(end))
}
