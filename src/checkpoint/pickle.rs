//! What pickles are called. They are never read.

const PICKLES: &[&str] = &[".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".pt2", ".ptl"];
const COMPRESSED: &[&str] = &[".gz", ".bz2", ".xz", ".zst", ".lz4", ".z", ".zip", ".lzma"];

/// Whether a file is named as a pickle, or as one that was compressed.
pub fn is_pickle_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let plain = COMPRESSED.iter().find_map(|end| lower.strip_suffix(end)).unwrap_or(&lower);
    PICKLES.iter().any(|end| plain.ends_with(end))
}
