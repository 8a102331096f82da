//! One read of every file: its digest, its tensors' digests and the marks of their lines.

use super::digest::{Algorithm, Hasher};
use super::lines::Marker;
use super::{FileRecord, TensorRecord};
use crate::checkpoint::Opened;
use crate::checkpoint::gguf::GgufFile;
use crate::checkpoint::gguf::header::TensorInfo;
use crate::checkpoint::header::TensorEntry;
use crate::checkpoint::packing::Layout;
use crate::checkpoint::stand_in::StandIn;
use crate::error::{Error, Result};
use crate::files::Stamp;
use crate::progress::Progress;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::iter::Peekable;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{IntoIter, Receiver, SyncSender, sync_channel};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;
/// Pieces that wait for each of the workers of a file.
const WAITING: usize = 4;

/// What was read of one file.
#[derive(Debug, Clone)]
pub(super) struct FileRead {
    pub file: FileRecord,
    /// In the order of their bytes; none where the header is not readable.
    pub tensors: Vec<TensorRecord>,
    /// Why the tensors of a safetensors file could not be told.
    pub problem: Option<String>,
}

impl FileRead {
    /// The same by another name.
    pub(super) fn of(&self, path: &str) -> FileRead {
        let mut read = self.clone();
        read.file.path = path.to_owned();
        read.tensors.iter_mut().for_each(|tensor| tensor.file = path.to_owned());
        read
    }
}

/// What tensors and rows are digested by.
#[derive(Clone, Copy)]
pub(super) struct Digests<'a> {
    pub algorithm: Algorithm,
    /// Whether a tensor's rows get digests of their own.
    pub of_rows: &'a (dyn Fn(&str) -> bool + Sync),
}

/// Reads an open file of what was opened, the one at `full`, `path` below its root.
///
/// Three threads share each piece: the file's SHA-256, which cannot be divided; the digests of tensors and rows; and the
/// marks. By BLAKE3 and with vector instructions each of the latter two takes less time than the first, which is what a
/// file alone takes, then; several files are read side by side.
pub(super) fn read(
    (opened, mut file): (&Opened, &File),
    full: &Path,
    path: &str,
    digests: Digests,
    progress: &dyn Progress,
) -> Result<FileRead> {
    let about = || file.metadata().map_err(Error::io(full));
    let before = about()?;
    let length = before.len();
    let (entries, problem) = match opened.is_gguf() || is_safetensors(path) {
        true => match header(opened, file, full) {
            Ok(entries) => (entries, None),
            Err(problem) => (Vec::new(), Some(problem)),
        },
        false => (Vec::new(), None),
    };
    let pieces = pieces(&entries, length);
    let (sha256, digested, marked) = std::thread::scope(|scope| {
        let (to_file, for_file) = sync_channel::<Piece>(WAITING);
        let (to_tensors, for_tensors) = sync_channel::<Piece>(WAITING);
        let (to_marks, for_marks) = sync_channel::<Piece>(WAITING);
        let whole = scope.spawn(|| digest_file(for_file));
        let each = scope.spawn(|| digest_tensors(for_tensors, &entries, digests));
        let marks = scope.spawn(|| mark(for_marks, &entries));
        let sent = send(file, pieces, &[&to_file], &[&to_tensors, &to_marks], progress);
        drop((to_file, to_tensors, to_marks));
        let failed = || Error::file(full, "a thread that reads it ended early");
        let joined = (
            whole.join().map_err(|_| failed())?,
            each.join().map_err(|_| failed())?,
            marks.join().map_err(|_| failed())?,
        );
        sent.map_err(|e| e.at(full)).map(|()| joined)
    })?;
    if Stamp::of(&about()?) != Stamp::of(&before) || file.read(&mut [0]).map_err(Error::io(full))? > 0 {
        return Err(Error::file(full, "changed while it was read; try again when nothing writes to it"));
    }
    let tensors = entries.into_iter().zip(digested).zip(marked).map(|((entry, digested), marked)| TensorRecord {
        name: entry.name,
        file: path.to_owned(),
        dtype: entry.dtype,
        shape: entry.shape,
        digest: digested.whole,
        statistics: marked.statistics,
        rows: marked.rows,
        columns: marked.columns,
        row_digests: digested.rows,
    });
    let file = FileRecord { path: path.to_owned(), bytes: length, sha256, link: None };
    Ok(FileRead { file, tensors: tensors.collect(), problem })
}

/// Whether a file is read for tensors.
pub(super) fn is_safetensors(path: &str) -> bool {
    path.ends_with(".safetensors")
}

/// The tensors in the order of their bytes.
fn header(opened: &Opened, file: &File, path: &Path) -> std::result::Result<Vec<TensorEntry>, String> {
    if let Some(gguf) = opened.gguf_file().map_err(|e| e.to_string())? {
        gguf.sound().map_err(|e| e.to_string())?;
        return part(gguf, file, path);
    }
    let shard = opened.shard_of(file, path).map_err(|e| e.to_string())?;
    match (shard.stand_in(), shard.problems().first()) {
        (Some(StandIn::Empty), _) => Err("is empty, expected a safetensors file".into()),
        (Some(stand_in), _) => Err(stand_in.to_string()),
        (None, Some(problem)) => Err(problem.to_string()),
        (None, None) => Ok(shard.header().tensors.clone()),
    }
}

/// Those of one file of a GGUF.
fn part(gguf: &GgufFile, file: &File, path: &Path) -> std::result::Result<Vec<TensorEntry>, String> {
    let about = file.metadata().map_err(|e| e.to_string())?;
    let part = gguf.maps().iter().position(|map| map.path() == path && map.is_still(&about));
    let part = part.ok_or("changed while it was read; try again when nothing writes to it")?;
    let mut tensors: Vec<_> = gguf.tensors().filter(|(_, info)| info.part == part).collect();
    tensors.sort_by_key(|(_, info)| info.bytes.start);
    let entry = |(name, info): (&str, &TensorInfo)| {
        let (dtype, shape) = info.stored();
        TensorEntry { name: name.to_owned(), dtype, shape, bytes: info.bytes.start as u64..info.bytes.end as u64 }
    };
    Ok(tensors.into_iter().map(entry).collect())
}

/// Bytes of a file, of one tensor where it says so.
#[derive(Clone)]
struct Piece {
    tensor: Option<usize>,
    bytes: Arc<Vec<u8>>,
}

/// What to read, in order: whole elements of one tensor, or bytes of none.
fn pieces(entries: &[TensorEntry], length: u64) -> Vec<(Option<usize>, Range<u64>)> {
    let mut found = Vec::new();
    let mut cut = |tensor, range: Range<u64>, unit: usize| {
        let step = (PIECE / unit.max(1)).max(1) as u64 * unit.max(1) as u64;
        let mut at = range.start;
        while at < range.end {
            let end = (at + step.min(PIECE.max(unit) as u64)).min(range.end);
            found.push((tensor, at..end));
            at = end;
        }
    };
    let mut end = 0;
    for (at, entry) in entries.iter().enumerate() {
        // What aligns the tensors of a GGUF is none's.
        cut(None, end..entry.bytes.start, 1);
        end = entry.bytes.end;
        let unit = Layout::of(entry.dtype, &entry.shape).map_or(1, |l| match l.row_bytes() {
            row if row <= PIECE => row,
            _ => l.element_bytes(),
        });
        cut(Some(at), entry.bytes.clone(), unit);
    }
    cut(None, end..length, 1);
    found
}

/// Why reading ended.
enum Stop {
    Io(std::io::Error),
    Other(Error),
}

impl Stop {
    fn at(self, path: &Path) -> Error {
        match self {
            Stop::Io(e) => Error::io(path)(e),
            Stop::Other(e) => e,
        }
    }
}

fn send(
    mut file: &File,
    pieces: Vec<(Option<usize>, Range<u64>)>,
    all: &[&SyncSender<Piece>],
    of_tensors: &[&SyncSender<Piece>],
    progress: &dyn Progress,
) -> std::result::Result<(), Stop> {
    let mut unsaid = 0;
    // Those that the workers are done with are filled again.
    let mut sent = VecDeque::<Arc<Vec<u8>>>::new();
    for (tensor, range) in pieces {
        let mut bytes = match sent.pop_front().map(Arc::try_unwrap) {
            Some(Ok(done)) => done,
            Some(Err(busy)) => {
                sent.push_front(busy);
                Vec::new()
            }
            None => Vec::new(),
        };
        bytes.resize((range.end - range.start) as usize, 0);
        file.read_exact(&mut bytes).map_err(Stop::Io)?;
        unsaid += bytes.len() as u64;
        let piece = Piece { tensor, bytes: Arc::new(bytes) };
        sent.push_back(piece.bytes.clone());
        for to in all.iter().chain(of_tensors.iter().filter(|_| tensor.is_some())) {
            // A worker that has ended is found out when it is joined.
            let _ = to.send(piece.clone());
        }
        if unsaid >= 16 * PIECE as u64 {
            progress.advance(std::mem::take(&mut unsaid)).map_err(Stop::Other)?;
        }
    }
    progress.advance(unsaid).map_err(Stop::Other)
}

fn digest_file(pieces: Receiver<Piece>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    pieces.iter().for_each(|piece| hasher.update(&*piece.bytes));
    hasher.finalize().into()
}

/// The digests of a tensor.
struct Digested {
    whole: [u8; 32],
    rows: Option<Vec<[u8; 32]>>,
}

/// The pieces of a tensor, the next in order.
fn of_tensor<'a>(pieces: &'a mut Peekable<IntoIter<Piece>>, at: usize) -> impl Iterator<Item = Piece> + 'a {
    std::iter::from_fn(move || pieces.next_if(|piece| piece.tensor == Some(at)))
}

fn digest_tensors(pieces: Receiver<Piece>, entries: &[TensorEntry], digests: Digests) -> Vec<Digested> {
    let mut pieces = pieces.into_iter().peekable();
    let mut hasher = digests.algorithm.hasher();
    let digest = |(at, entry): (usize, &TensorEntry)| {
        let lines = Layout::of(entry.dtype, &entry.shape).filter(|layout| layout.has_lines());
        let row_bytes = lines.map(Layout::row_bytes).filter(|bytes| *bytes >= 32 && (digests.of_rows)(&entry.name));
        let mut rows = row_bytes.map(|row_bytes| Rows::new(digests.algorithm, row_bytes));
        for piece in of_tensor(&mut pieces, at) {
            hasher.update(&*piece.bytes);
            if let Some(rows) = &mut rows {
                rows.update(&piece.bytes);
            }
        }
        Digested { whole: hasher.finish(), rows: rows.map(|rows| rows.digests) }
    };
    entries.iter().enumerate().map(digest).collect()
}

#[derive(Default)]
struct Marked {
    statistics: super::LineStatistics,
    rows: Vec<super::LineMark>,
    columns: Vec<super::LineMark>,
}

fn mark(pieces: Receiver<Piece>, entries: &[TensorEntry]) -> Vec<Marked> {
    let mut pieces = pieces.into_iter().peekable();
    let mark = |(at, entry): (usize, &TensorEntry)| {
        let layout = Layout::of(entry.dtype, &entry.shape);
        let lines = layout.filter(|l| l.has_lines());
        let mut marker = lines.or(layout.map(Layout::flat)).map(Marker::new);
        for piece in of_tensor(&mut pieces, at) {
            if let Some(marker) = &mut marker {
                marker.update(&piece.bytes);
            }
        }
        let (mut rows, mut columns, statistics) = marker.map(Marker::finish).unwrap_or_default();
        if lines.is_none() {
            (rows, columns) = (Vec::new(), Vec::new());
        }
        Marked { statistics, rows, columns }
    };
    entries.iter().enumerate().map(mark).collect()
}

/// Digests of rows.
struct Rows {
    algorithm: Algorithm,
    row_bytes: usize,
    /// Of a row that is not whole yet.
    taken: usize,
    hasher: Hasher,
    digests: Vec<[u8; 32]>,
}

impl Rows {
    fn new(algorithm: Algorithm, row_bytes: usize) -> Rows {
        Rows { algorithm, row_bytes, taken: 0, hasher: algorithm.hasher(), digests: Vec::new() }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at((self.row_bytes - self.taken).min(bytes.len()));
            bytes = rest;
            if now.len() == self.row_bytes {
                self.digests.push(self.algorithm.digest(now));
                continue;
            }
            self.hasher.update(now);
            self.taken += now.len();
            if self.taken == self.row_bytes {
                self.digests.push(self.hasher.finish());
                self.taken = 0;
            }
        }
    }
}
