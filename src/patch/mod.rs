//! Bakes masks and β-scaling of neurons into a checkpoint's weights: a plan of byte edits, two ways to write it, a
//! receipt, and two ways back: by the receipt, and by a vault of the original weights.

mod apply;
mod believe;
mod bits;
mod carried;
mod changes;
mod disk;
mod document;
mod edit;
mod folder;
#[cfg(test)]
mod gguf_tests;
mod home;
mod journal;
mod packed;
#[cfg(test)]
mod packed_tests;
mod plan;
mod receipt;
mod request;
mod restore;
#[cfg(test)]
mod restore_tests;
mod shard;
mod target;
#[cfg(test)]
mod tests;
mod unpatch;
pub mod vault;
mod verify;

pub use crate::integrity::receipt::{Kept, RECEIPT, Receipt, Requested, Rounding, Spare, State, UNDO};
pub use apply::{check_in_place, check_new, check_unpatched, check_unpatched_at, in_place, write_new};
pub use document::{PlanDocument, PlannedEdit, RestoreDocument, ShownPart};
pub use edit::Edit;
pub use folder::Folder;
pub use journal::WriteSettings;
pub use plan::{Line, Plan};
pub use restore::{RestoreSettings, Restored, RestoredPart, restore};
pub use unpatch::{Unpatched, unpatch};
pub use verify::{Verified, verify};
