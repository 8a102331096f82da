//! What is computed, against what others compute.

pub mod families;
mod gradients;
mod packed;
mod published;
mod rankings;
mod second_opinion;
mod smollm2;
