//! What makes a block's values zero, or multiples of themselves: where its scales lie, and for elements the codes that
//! stand for 0. Blocks are laid out as `gguf::blocks` decodes them.

/// What all values of a block are multiplied by.
#[derive(Debug, Clone, Copy)]
pub enum Scales {
    /// Nothing: elements are numbers of their own.
    None,
    /// Half-precision numbers from a byte on: the scale, and of a type with minima their scale too.
    Half {
        /// The first byte.
        at: usize,
        /// How many there are.
        count: usize,
    },
    /// One half-precision number, four bits of it at the upper end of each of four words from a byte on.
    Scattered {
        /// The first byte.
        at: usize,
    },
    /// The exponent of a power of two, in one byte, and so never 0.
    Exponent {
        /// Which.
        at: usize,
    },
    /// Floats of 8 bits (E4M3) from a byte on, whose sign is not looked at.
    Small {
        /// The first byte.
        at: usize,
        /// How many there are.
        count: usize,
    },
}

/// The code of a type's elements that stands for 0.
#[derive(Debug, Clone, Copy)]
pub enum Zero {
    /// There is one.
    Code {
        /// Where the code of an element of a block lies.
        lies: fn(usize) -> Code,
        /// What it is.
        zero: u32,
    },
    /// There is none, and why.
    None(&'static str),
}

/// The parts of an element's code, the lowest bits first; one of no bits is none.
pub type Code = [Bits; 2];

/// Bits of a block, counted from its first byte's lowest on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bits {
    /// The first.
    pub at: usize,
    /// How many.
    pub count: usize,
}

/// Some bits of a byte.
fn bits(byte: usize, shift: usize, count: usize) -> Bits {
    Bits { at: byte * 8 + shift, count }
}

fn one(bits: Bits) -> Code {
    [bits, Bits::default()]
}

pub(super) fn q4_0(element: usize) -> Code {
    one(bits(2 + element % 16, element / 16 * 4, 4))
}

pub(super) fn q5_0(element: usize) -> Code {
    [bits(6 + element % 16, element / 16 * 4, 4), bits(2, element, 1)]
}

pub(super) fn q8_0(element: usize) -> Code {
    one(bits(2 + element, 0, 8))
}

pub(super) fn q3_k(element: usize) -> Code {
    let (sub, at) = (element / 16, element % 16);
    let within = sub % 2 * 16 + at;
    [bits(32 + sub / 8 * 32 + within, sub % 8 / 2 * 2, 2), bits(within, sub / 2, 1)]
}

pub(super) fn q6_k(element: usize) -> Code {
    let (of, within, at) = (element / 128, element / 16 % 8, element % 16);
    let low = bits(of * 64 + within % 4 * 16 + at, within / 4 * 4, 4);
    [low, bits(128 + of * 32 + within % 2 * 16 + at, within / 2 * 2, 2)]
}

pub(super) fn tq2_0(element: usize) -> Code {
    one(bits(element / 128 * 32 + element % 32, element / 32 % 4 * 2, 2))
}

pub(super) fn mxfp4(element: usize) -> Code {
    one(bits(1 + element % 16, element / 16 * 4, 4))
}

pub(super) fn nvfp4(element: usize) -> Code {
    one(bits(4 + element / 16 * 8 + element % 8, element / 8 % 2 * 4, 4))
}
