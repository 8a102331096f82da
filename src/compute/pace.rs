//! How fast weights are read and rows computed where weights are streamed, as the passes so far have shown.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Totals over all passes.
#[derive(Debug, Default)]
pub(super) struct Pace {
    reading_ns: AtomicU64,
    layers_read: AtomicU64,
    computing_ns: AtomicU64,
    positions_computed: AtomicU64,
}

impl Pace {
    /// A layer was read.
    pub fn read(&self, took: Duration) {
        self.reading_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        self.layers_read.fetch_add(1, Ordering::Relaxed);
    }

    /// So many positions, of all rows together, have passed a layer.
    pub fn computed(&self, positions: usize, took: Duration) {
        self.computing_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        self.positions_computed.fetch_add(positions as u64, Ordering::Relaxed);
    }

    /// Layers that were read.
    #[cfg(test)]
    pub fn layers_read(&self) -> u64 {
        self.layers_read.load(Ordering::Relaxed)
    }

    /// Rows of so many positions that take as long to compute as weights to read; one where nothing was read.
    pub fn rows_paid_for(&self, positions: usize) -> usize {
        let total = |of: &AtomicU64| of.load(Ordering::Relaxed) as f64;
        let reading = total(&self.reading_ns) / total(&self.layers_read);
        let row = total(&self.computing_ns) / total(&self.positions_computed) * positions as f64;
        // Not a number where nothing was read or computed.
        (reading / row).max(1.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_pays_for_as_many_rows_as_it_reads_meanwhile() {
        let pace = Pace::default();
        assert_eq!(pace.rows_paid_for(100), 1);
        pace.computed(200, Duration::from_millis(40));
        assert_eq!(pace.rows_paid_for(100), 1);
        pace.read(Duration::from_millis(90));
        pace.read(Duration::from_millis(110));
        // A layer takes 100 ms, a position 0.2 ms, a row of 100 therefore 20 ms.
        assert_eq!(pace.rows_paid_for(100), 5);
        assert_eq!(pace.rows_paid_for(1000), 1);
        assert_eq!(Pace::default().rows_paid_for(0), 1);
    }
}
