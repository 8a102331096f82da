//! What the commands answer.

mod answers;
mod compare;
mod divergence;
<<<<<<< HEAD
mod estimate;
=======
mod fingerprint;
>>>>>>> f47ed03 (Tensors, rows and lists are fingerprinted by BLAKE3, files by one SHA-256; marks by vector instructions; v1 documents still verify)
mod gate;
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
mod waivers;
