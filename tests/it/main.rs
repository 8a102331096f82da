//! The one integration binary. Tests that need the real model are ignored unless asked for: `make test` fetches it.

// clippy.toml allows these in test functions; here what those call is test code, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod bad_input;
#[cfg(target_os = "linux")]
mod bombs;
mod command_line;
mod compare;
#[cfg(unix)]
mod contrib;
mod escape;
#[cfg(target_os = "linux")]
mod faults;
#[cfg(unix)]
mod field;
#[cfg(unix)]
mod folders;
mod gate;
mod hub;
mod integrity;
mod lint;
mod monitor;
#[cfg(unix)]
mod oms;
mod once;
mod parity;
mod patch;
mod probe;
mod published;
mod readme;
#[cfg(unix)]
mod rules;
mod safe_hands;
mod second_opinion;
mod served;
mod shell;
mod smollm2;
mod tiny;
mod tokens;
mod waivers;

/// The SmolLM2-135M-Instruct folder that `make model` imports.
fn smollm2_folder() -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/smollm2-135m-instruct");
    assert!(std::path::Path::new(folder).join("config.json").exists(), "{folder} is missing: run `make model` first");
    folder.to_owned()
}
