//! What the commands answer.

mod answers;
mod compare;
mod corpora;
mod cyclonedx;
mod divergence;
mod estimate;
mod fingerprint;
mod gate;
mod harden;
mod help;
mod ignore_list;
mod integrity;
mod lint;
mod monitor;
mod once;
mod packed;
mod patch;
mod probe;
mod readme;
mod renamed;
#[cfg(unix)]
mod rules;
mod shell;
mod study;
mod waivers;
