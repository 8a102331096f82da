//! What a config describes, as data without arithmetic: the recipe of a decoder, the tensors of the parts beside it, and
//! where a neuron lies in the file.

pub mod channel_mixer;
mod config_class;
mod config_keys;
mod families;
pub mod gated_delta_net;
mod known_keys;
pub mod latent_attention;
pub mod module;
pub(crate) mod names;
mod neuron_place;
mod parts;
pub mod place;
pub mod recipe;
pub mod role;
pub mod rope;
mod rope_config;
pub mod short_convolution;
pub(crate) mod stacks;
mod stored;
pub mod token_mixer;

pub(crate) use families::is_family;
pub use families::name;
pub(crate) use known_keys::changes_nothing;
pub(crate) use neuron_place::{in_file, line};
pub use parts::{OtherParts, PartTensor};
pub use recipe::Recipe;
pub(crate) use stored::{check, check_head, formats, tensors_of};
