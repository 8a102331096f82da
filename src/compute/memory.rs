//! Memory, the host's or a card's: how much there is, what weights take of it, and how many rows the rest has room for.

use super::device::{self, ComputeSettings};
use super::weights::Residency;
use crate::architecture::Recipe;
use crate::error::{Bytes, Error, Result};
use candle_core::{DType, Device};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate};

/// Bytes of activations that one chunk of groups takes: more would not compute faster.
const CHUNK_BYTES: u64 = 32 << 20;
/// The same on a card, which wants more rows to be busy; and the share of what is left that they may take, one part in
/// so many: operations that are composed take several times as much.
const CARD_CHUNK_BYTES: u64 = 512 << 20;
const CARD_CHUNK_SHARE: u64 = 8;
/// Bytes of a card that are left to its driver, kernels and what lies between allocations.
const CARD_RESERVE: u64 = 1 << 30;
/// Bytes of the head's weights that make a block.
pub(super) const BLOCK_BYTES: usize = 64 << 20;
/// Bytes of logits of one block that are computed at once.
pub(super) const LOGITS_BYTES: usize = 64 << 20;

/// Bytes that logits take: as they are multiplied, capped and widened.
const LOGITS: u64 = 3 * LOGITS_BYTES as u64;

/// How often the activations of the widest point of a layer are kept in its graph and the gradients by it, at most:
/// SmolLM2 was seen to take some 6 times as much at 1,642 tokens.
const GRAPH: u64 = 8;

/// Bytes of sums that another device than the host has room for, as is believed.
const ON_DEVICE: u64 = 1 << 30;

/// Where weights and rows lie, and who knows how much they may take there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// In host memory, which is asked for anew before each pass where there is no budget.
    Host,
    /// On a card that said at the beginning what is free.
    Card,
    /// On a device whose driver alone judges.
    Driver,
}

impl Room {
    /// The share of what can be had that weights which stay may take.
    fn for_weights(self, available: u64) -> u64 {
        match self {
            // Others need host memory, too.
            Room::Host => available / 4 * 3,
            Room::Card => available / 10 * 9,
            Room::Driver => u64::MAX,
        }
    }

    /// Bytes of activations that a chunk may take, where so many are left.
    fn for_chunk(self, left: u64) -> u64 {
        match self {
            // What goes on with the rows meanwhile needs memory, too.
            Room::Host => CHUNK_BYTES.min(left / 2),
            Room::Card => CARD_CHUNK_BYTES.min(left / CARD_CHUNK_SHARE),
            Room::Driver => CHUNK_BYTES,
        }
    }

    /// In a phrase, after what would be computed.
    fn place(self) -> &'static str {
        if self == Room::Card { " on the GPU" } else { "" }
    }
}

/// Memory that may be taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Bytes that are left for rows, where a budget says what the process may take or a card what it has; memory that was
    /// freed and not given back is not held against it.
    left: Option<u64>,
    room: Room,
    /// Bytes that a pass takes beside rows: weights that it reads as it goes, logits.
    in_passing: u64,
    /// Whether weights are among that.
    is_streamed: bool,
}

/// What a model takes of memory, known before its weights are loaded.
#[derive(Debug, Clone, Copy)]
pub struct Footprint {
    /// Bytes of the weights that stay where all do.
    pub resident: u64,
    /// Bytes of the weights that are at hand at once where they are streamed.
    pub streamed: u64,
    /// Bytes that can be had.
    pub available: u64,
    /// Whether weights stay.
    pub residency: Residency,
    dtype: DType,
    memory: Memory,
}

impl Footprint {
    /// Of a model that is not loaded yet.
    ///
    /// # Errors
    /// There is no such device, or it has no memory of its own to limit.
    pub fn of(recipe: &Recipe, settings: &ComputeSettings) -> Result<Footprint> {
        Footprint::on(&settings.device.open()?, recipe, settings)
    }

    pub(super) fn on(device: &Device, recipe: &Recipe, settings: &ComputeSettings) -> Result<Footprint> {
        let (room, available) = match (device::free_bytes(device)?, settings.gpu_memory) {
            (Some(free), budget) => (Room::Card, of_card(free, budget)),
            (None, Some(_)) => {
                let name = device::name(device);
                let problem = format!("limits what CUDA devices take, and this computes on {name}");
                return Err(Error::input(format!("--gpu-memory {problem}: leave it out, or use --device cuda:N")));
            }
            (None, None) if device.is_cpu() => (Room::Host, available_bytes(settings.memory)),
            (None, None) => (Room::Driver, available_bytes(settings.memory)),
        };
        Ok(Footprint::within(available, room, recipe, settings))
    }

    fn within(available: u64, room: Room, recipe: &Recipe, settings: &ComputeSettings) -> Footprint {
        let dtype = settings.arithmetic.dtype();
        let (resident, streamed) = weights_of(recipe, dtype);
        let memory = Memory { left: None, room, in_passing: 0, is_streamed: false };
        let residency = Residency::Resident;
        let mut footprint = Footprint { resident, streamed, available, residency, dtype, memory };
        let needed = footprint.beside_rows(Residency::Resident);
        let fits = needed <= room.for_weights(available) || needed <= footprint.beside_rows(Residency::Streamed);
        let decided = if fits { Residency::Resident } else { Residency::Streamed };
        footprint.residency = settings.residency.unwrap_or(decided);
        footprint.memory.is_streamed = footprint.residency == Residency::Streamed;
        let kept = if footprint.memory.is_streamed { 0 } else { resident };
        footprint.memory.in_passing = footprint.beside_rows(footprint.residency) - kept;
        footprint.memory.left = match room {
            Room::Host => settings.memory.map(|_| footprint.left()),
            Room::Card | Room::Driver => Some(footprint.left()),
        };
        footprint
    }

    /// Bytes that weights take, and what a pass takes beside rows.
    fn beside_rows(&self, residency: Residency) -> u64 {
        match residency {
            Residency::Resident => self.resident + LOGITS,
            Residency::Streamed => self.streamed.max(2 * BLOCK_BYTES as u64 + LOGITS),
        }
    }

    pub(super) fn memory(&self) -> Memory {
        self.memory
    }

    /// Bytes that are left for rows once the weights are at hand.
    pub fn left(&self) -> u64 {
        match self.memory.room {
            Room::Host | Room::Card => self.available.saturating_sub(self.beside_rows(self.residency)),
            Room::Driver => u64::MAX,
        }
    }

    /// Rows of so many positions that are computed together at most.
    pub fn chunk_rows(&self, recipe: &Recipe, positions: usize) -> usize {
        self.memory.chunk_rows(recipe, positions, self.dtype, self.left())
    }

    /// Rows of so many positions that one pass can take; at least one.
    pub fn rows_at_once(&self, recipe: &Recipe, positions: usize) -> usize {
        self.memory.rows_at_once(recipe, positions, self.dtype, self.left())
    }

    /// Refuses weights for which there is no room.
    ///
    /// # Errors
    /// There is less memory than they take.
    pub fn check(&self) -> Result<()> {
        let needed = self.beside_rows(self.residency);
        let advice = match self.residency {
            Residency::Resident if self.beside_rows(Residency::Streamed) < needed => {
                "stream them (--weights stream), or use a narrower --dtype"
            }
            _ if self.memory.room == Room::Card => ADVICE_ON_CARD,
            _ => ADVICE,
        };
        match self.memory.room != Room::Driver && needed > self.available {
            true => {
                let how = if self.residency == Residency::Resident { "" } else { " read layer by layer" };
                let dtype = format!("{:?}", self.dtype).to_lowercase();
                let place = self.memory.room.place();
                let what = format!("computing{place} with this model's weights in {dtype}{how}");
                Err(Error::Memory { what, needed, available: self.available, advice })
            }
            false => Ok(()),
        }
    }

    /// Refuses a pass of so many rows for which there would be no room beside the weights.
    ///
    /// # Errors
    /// As said.
    pub fn check_rows(&self, recipe: &Recipe, rows: usize, positions: usize) -> Result<()> {
        self.memory.check_rows(recipe, rows, positions, self.dtype, self.left())
    }

    /// Refuses to follow gradients through a row of so many positions where there would be no room beside the weights.
    ///
    /// # Errors
    /// As said.
    pub fn check_gradients(&self, recipe: &Recipe, positions: usize) -> Result<()> {
        self.memory.check_gradients(recipe, positions, self.dtype, self.left())
    }

    /// Refuses what would need more than is left for rows.
    ///
    /// # Errors
    /// As said.
    pub fn check_left(&self, what: &str, needed: u64) -> Result<()> {
        self.memory.check_left(what, needed, self.left())
    }
}

/// What can be done where weights do not fit.
const ADVICE: &str = "free some, give more by --memory, or use a narrower --dtype or a larger machine";

const ADVICE_ON_CARD: &str =
    "free some, give more by --gpu-memory, or use a narrower --dtype, a larger card or --device cpu";

impl Memory {
    /// Bytes that are left for rows.
    pub fn for_rows(&self) -> u64 {
        self.left.unwrap_or_else(|| available_bytes(None).saturating_sub(self.in_passing))
    }

    /// Bytes that sums over rows may take, which stay from pass to pass: half of what rows could.
    pub fn for_sums(&self) -> u64 {
        if self.room == Room::Driver { ON_DEVICE } else { self.for_rows() / 2 }
    }

    /// Whether the streams of a text before all layers would take little of what is left.
    pub fn has_room_for_a_trunk(&self, recipe: &Recipe, positions: usize, dtype: DType, left: u64) -> bool {
        let bytes = (recipe.layers.len() as u64 + 1).saturating_mul(row_bytes(recipe, positions, dtype));
        bytes <= if self.room == Room::Driver { ON_DEVICE } else { left / 8 }
    }

    /// Groups that make a chunk, of which there is always one.
    pub fn chunk_rows(&self, recipe: &Recipe, positions: usize, dtype: DType, left: u64) -> usize {
        (self.room.for_chunk(left) / group_bytes(recipe, positions, dtype)).max(1) as usize
    }

    /// Rows that one pass can take, of which there is always one.
    pub fn rows_at_once(&self, recipe: &Recipe, positions: usize, dtype: DType, left: u64) -> usize {
        let chunk = self.chunk_rows(recipe, positions, dtype, left) as u64 * group_bytes(recipe, positions, dtype);
        let rows = left.saturating_sub(chunk) / row_bytes(recipe, positions, dtype);
        usize::try_from(rows).unwrap_or(usize::MAX).max(1)
    }

    /// Refuses to follow gradients where what went into each layer and the graph of one layer do not fit.
    pub fn check_gradients(&self, recipe: &Recipe, positions: usize, dtype: DType, left: u64) -> Result<()> {
        let kept = (recipe.layers.len() as u64 + 2).saturating_mul(row_bytes(recipe, positions, dtype));
        let needed = kept.saturating_add(GRAPH.saturating_mul(group_bytes(recipe, positions, dtype)));
        self.check_left(&format!("gradients of {positions} tokens"), needed, left)
    }

    /// Refuses a pass whose activations do not fit.
    pub fn check_rows(&self, recipe: &Recipe, rows: usize, positions: usize, dtype: DType, left: u64) -> Result<()> {
        let chunk = self.chunk_rows(recipe, positions, dtype, left).min(rows) as u64;
        let kept = (rows as u64).saturating_mul(row_bytes(recipe, positions, dtype));
        let needed = kept.saturating_add(chunk * group_bytes(recipe, positions, dtype));
        self.check_left(&format!("computing {rows} rows of {positions} tokens"), needed, left)
    }

    /// Refuses what would need more than is left beside the weights.
    pub fn check_left(&self, what: &str, needed: u64, left: u64) -> Result<()> {
        if needed <= left {
            return Ok(());
        }
        let advice = match (self.is_streamed, self.room) {
            (true, Room::Card) => "use a shorter text, fewer sites or fewer rows at once, or give more by --gpu-memory",
            (true, _) => "use a shorter text, fewer sites or fewer rows at once, or give more by --memory",
            (false, Room::Card) => {
                "stream the weights (--weights stream), use a shorter text or fewer sites, or give more by --gpu-memory"
            }
            (false, _) => {
                "stream the weights (--weights stream), use a shorter text or fewer sites, or give more by --memory"
            }
        };
        let what = format!("{what} beside the weights{}", self.room.place());
        Err(Error::Memory { what, needed, available: left, advice })
    }
}

/// Bytes of a model's weights in `dtype`: all of them, and what a pass holds at once that reads them as it goes.
fn weights_of(recipe: &Recipe, dtype: DType) -> (u64, u64) {
    let size = dtype.size_in_bytes() as u64;
    let (mut all, mut largest, mut largest_tensor) = (0, 0, 0);
    for index in 0..recipe.layers.len() {
        let tensors = tensors_of_layer(recipe, index, dtype);
        let layer = tensors.iter().sum::<u64>();
        all += layer;
        largest = layer.max(largest);
        largest_tensor = tensors.into_iter().fold(largest_tensor, u64::max);
    }
    let head = recipe.vocab_size as u64 * recipe.hidden_size as u64 * size;
    // One layer computes while the next is read; what is packed or part of a stack is decoded on the way.
    (all + head, 2 * (largest + largest_tensor))
}

/// Bytes of each of a layer's tensors in `dtype`.
fn tensors_of_layer(recipe: &Recipe, layer: usize, dtype: DType) -> Vec<u64> {
    let size = dtype.size_in_bytes() as u64;
    let bytes = |(_, shape): (String, Vec<usize>)| shape.iter().map(|d| *d as u64).product::<u64>() * size;
    recipe.layer_modules(layer).iter().flat_map(|module| module.tensors()).map(bytes).collect()
}

/// Bytes of a layer's weights in `dtype`.
pub(super) fn layer_bytes(recipe: &Recipe, layer: usize, dtype: DType) -> u64 {
    tensors_of_layer(recipe, layer, dtype).into_iter().sum()
}

/// Bytes that a row takes from layer to layer.
fn row_bytes(recipe: &Recipe, positions: usize, dtype: DType) -> u64 {
    (positions as u64 * recipe.carried_width() as u64 * dtype.size_in_bytes() as u64).max(1)
}

/// Bytes of activations that one group takes at the widest point of a layer.
fn group_bytes(recipe: &Recipe, positions: usize, dtype: DType) -> u64 {
    let wide = recipe.layers.iter().map(|l| l.channel_mixer.width()).max().unwrap_or(0);
    let attention = recipe.layers.iter().map(|l| l.token_mixer.width(positions)).max().unwrap_or(0);
    let channels = 4 * recipe.hidden_size + attention.max(4 * wide);
    positions as u64 * channels as u64 * dtype.size_in_bytes() as u64
}

/// Bytes of a card that can be had where so many are free, within the budget if there is one.
fn of_card(free: u64, budget: Option<Bytes>) -> u64 {
    let can_be_had = free.saturating_sub(CARD_RESERVE);
    budget.map_or(can_be_had, |Bytes(budget)| budget.min(can_be_had))
}

/// Bytes of host memory that can be had, within the limits of the container and, if there is one, of the budget.
fn available_bytes(budget: Option<Bytes>) -> u64 {
    let of_system = system_bytes();
    match budget {
        Some(Bytes(budget)) => budget.saturating_sub(own_bytes()).min(of_system),
        None => of_system,
    }
}

fn system_bytes() -> u64 {
    let (Ok(mut system), Ok(own)) = (sysinfo::System::new(), sysinfo::get_current_pid()) else { return u64::MAX };
    system.refresh_memory();
    let (of_own, nothing) = (ProcessesToUpdate::Some(&[own]), ProcessRefreshKind::nothing());
    system.refresh_processes_specifics(of_own, false, nothing);
    match system.process(own).and_then(|own| own.cgroup_limits()) {
        // Not its free memory: that counts the page cache, and so the mapped weights, as used.
        Some(limits) => limits.total_memory.saturating_sub(limits.rss).min(system.available_memory()),
        None => system.available_memory(),
    }
}

/// Bytes that this process has taken; files that it has mapped are not counted where the system tells them apart.
fn own_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    if let Some(kilobytes) = anonymous.and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok()) {
        return kilobytes << 10;
    }
    let (Ok(mut system), Ok(own)) = (sysinfo::System::new(), sysinfo::get_current_pid()) else { return 0 };
    let of_own = ProcessesToUpdate::Some(&[own]);
    system.refresh_processes_specifics(of_own, false, ProcessRefreshKind::nothing().with_memory());
    system.process(own).map_or(0, |own| own.memory())
}

#[cfg(test)]
mod tests;
