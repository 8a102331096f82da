//! What is computed, against what others compute.

pub mod families;
mod packed;
mod published;
mod second_opinion;
mod smollm2;
