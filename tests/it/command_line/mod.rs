//! What the commands answer.

mod answers;
mod compare;
mod divergence;
mod gate;
mod help;
mod integrity;
mod lint;
mod monitor;
mod once;
mod patch;
mod probe;
mod readme;
mod renamed;
#[cfg(unix)]
mod rules;
mod shell;
mod waivers;
