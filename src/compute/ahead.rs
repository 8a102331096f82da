//! Loading one thing while another is computed with.

use crate::error::Result;

/// Calls `f` with what `load` gives for each of `all` in turn, loaded on a thread of its own while `f` has the one before.
pub(super) fn ahead<T: Send>(
    all: impl Iterator<Item = usize> + Clone + Send,
    load: impl Fn(usize) -> Result<T> + Send,
    mut f: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::sync_channel(0);
        let to_load = all.clone();
        scope.spawn(move || {
            for index in to_load {
                // The receiver hangs up when `f` failed or the user asked to stop.
                if send.send(load(index)).is_err() {
                    break;
                }
            }
        });
        all.zip(receive).try_for_each(|(index, loaded)| f(index, loaded?))
    })
}
