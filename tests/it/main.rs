//! The one integration binary. Tests that need the real model are ignored unless asked for: `make test` fetches it.

// clippy.toml allows these in test functions; here what those call is test code, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod circles;
mod command_line;
mod hostile;
mod interoperability;
mod parity;
mod tiny;
mod walls;

/// The SmolLM2-135M-Instruct folder that `make model` imports.
fn smollm2_folder() -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/smollm2-135m-instruct");
    assert!(std::path::Path::new(folder).join("config.json").exists(), "{folder} is missing: run `make model` first");
    folder.to_owned()
}
