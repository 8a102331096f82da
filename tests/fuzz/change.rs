//! Changes of sound inputs that shrink.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Which input, and what is done to it.
#[derive(Debug, Clone)]
pub struct Change {
    seed: Index,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    /// One byte is another.
    Set(Index, u8),
    /// One bit is flipped.
    Flip(Index, u8),
    /// Something is put in.
    Insert(Index, Vec<u8>),
    /// A part is taken out.
    Remove(Index, Index),
    /// A part is put in elsewhere.
    Copy(Index, Index, Index),
    /// A part is there many times.
    Repeat(Index, u8, u32),
    /// The next number is another.
    Number(Index, &'static str),
    /// The header's length, if it is one, is right again.
    Length,
}

/// Longer inputs show nothing new.
const LONGEST: usize = 1 << 20;

/// What inputs are made of, and what is at the edge.
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "null",
    "true",
    "0,",
    "[0],",
    "\"\":\"\",",
    "{\"a\":",
    "\"__metadata__\":{},",
    "\"dtype\":\"F4\",",
    "\"shape\":[0],",
    "\"data_offsets\":[0,0],",
    "\"auto_map\":\"x\",",
    "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},",
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "'__class__'",
    "~",
    "|attr(",
    "raw %}",
    "../",
    "\u{feff}",
    "\u{0}",
    "é",
];

const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "7",
    "1e400",
    "-0.0",
    "0.5",
    "255",
    "65536",
    "2147483647",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e18",
    "100000001",
];

/// Any change of any of the seeds.
pub fn changes(seeds: &'static [&'static [u8]]) -> impl Strategy<Value = Change> {
    assert!(!seeds.is_empty());
    let at = any::<Index>;
    let word = select(WORDS).prop_map(|w| w.as_bytes().to_vec());
    let step = prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Step::Set(at, byte)),
        (at(), 0u8..8).prop_map(|(at, bit)| Step::Flip(at, bit)),
        (at(), prop_oneof![3 => word, 1 => vec(any::<u8>(), 1..9)]).prop_map(|(at, bytes)| Step::Insert(at, bytes)),
        (at(), at()).prop_map(|(a, b)| Step::Remove(a, b)),
        (at(), at(), at()).prop_map(|(a, b, to)| Step::Copy(a, b, to)),
        (at(), 1u8..64, prop_oneof![20 => 2u32..100, 1 => 100u32..200_000])
            .prop_map(|(at, n, times)| Step::Repeat(at, n, times)),
        (at(), select(NUMBERS)).prop_map(|(at, number)| Step::Number(at, number)),
        Just(Step::Length),
    ];
    (at(), vec(step, 1..8)).prop_map(|(seed, steps)| Change { seed, steps })
}

impl Change {
    /// The changed input.
    pub fn apply(&self, seeds: &[&[u8]]) -> Vec<u8> {
        let mut bytes = self.seed.get(seeds).to_vec();
        for step in &self.steps {
            step.apply(&mut bytes);
            bytes.truncate(LONGEST);
        }
        bytes
    }
}

/// Most of a safetensors file is data, which few readers look at: four of five places are in the front.
fn place(at: &Index, bytes: &[u8]) -> usize {
    let header = bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b)).saturating_add(8);
    let front = bytes.len().min(header.max(64) as usize);
    let back = front.div_ceil(4);
    match at.index(front + back + 1) {
        at if at <= front => at,
        at => front + (at - front) * (bytes.len() - front) / back,
    }
}

fn range(a: &Index, b: &Index, bytes: &[u8]) -> std::ops::Range<usize> {
    let (a, b) = (place(a, bytes), place(b, bytes));
    a.min(b)..a.max(b)
}

impl Step {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Step::Set(at, byte) => {
                let at = place(at, bytes);
                if let Some(old) = bytes.get_mut(at) {
                    *old = *byte;
                }
            }
            Step::Flip(at, bit) => {
                let at = place(at, bytes);
                if let Some(old) = bytes.get_mut(at) {
                    *old ^= 1 << bit;
                }
            }
            Step::Insert(at, new) => {
                let at = place(at, bytes);
                bytes.splice(at..at, new.iter().copied());
            }
            Step::Remove(a, b) => {
                bytes.drain(range(a, b, bytes));
            }
            Step::Copy(a, b, to) => {
                let (part, to) = (bytes[range(a, b, bytes)].to_vec(), place(to, bytes));
                bytes.splice(to..to, part);
            }
            Step::Repeat(at, length, times) => {
                let from = place(at, bytes);
                let part = bytes[from..bytes.len().min(from + *length as usize)].to_vec();
                let times = (*times as usize).min(LONGEST / part.len().max(1));
                bytes.splice(from..from, part.repeat(times));
            }
            Step::Number(at, number) => {
                let from = place(at, bytes);
                let Some(begin) = bytes[from..].iter().position(u8::is_ascii_digit) else { return };
                let begin = from + begin;
                let length = bytes[begin..].iter().take_while(|b| b.is_ascii_digit()).count();
                bytes.splice(begin..begin + length, number.bytes());
            }
            Step::Length => {
                // The data of the fixtures begin after the last brace of the header.
                let Some(end) = bytes.windows(2).rposition(|pair| pair == b"}}").filter(|end| *end >= 8) else {
                    return;
                };
                let length = (end + 2 - 8) as u64;
                bytes[..8].copy_from_slice(&length.to_le_bytes());
            }
        }
    }
}
