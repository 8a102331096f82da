//! Input that is malformed, made to harm, or not what it seems; runs that are cut short.

mod bad_input;
#[cfg(target_os = "linux")]
mod bombs;
mod escape;
#[cfg(target_os = "linux")]
mod faults;
#[cfg(unix)]
mod field;
#[cfg(unix)]
mod folders;
#[cfg(target_os = "linux")]
mod ggufs;
mod safe_hands;
mod tokens;
