//! The IQ types of up to three bits: groups of elements are rows of a grid that all models share.

use super::grids::{IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use super::{SUPER_BLOCK, each, half};
use half::f16;

/// What two bits stand for in the grids of IQ2.
const TWO_BITS: [f32; 4] = [8.0, 25.0, 43.0, 0.0];
/// What three bits stand for in the grid of IQ3_XXS.
const THREE_BITS_XXS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
/// What three bits stand for in the grid of IQ3_S.
const THREE_BITS_S: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];
/// What the elements of IQ1 are moved by.
const DELTA: f32 = 0.125;

/// Eight signs of seven bits: the eighth makes their number even.
fn signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() & 1) as u8) << 7
}

fn sign(signs: u8, at: usize) -> f32 {
    if signs >> at & 1 == 0 { 1.0 } else { -1.0 }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]])
}

/// Half a byte: the lower half of each byte first.
fn nibble(bytes: &[u8], at: usize) -> u8 {
    bytes[at / 2] >> (at % 2 * 4) & 15
}

/// Eight elements: a row of a grid of IQ2.
fn eight(out: &mut [f32], d: f32, row: u16, signs: u8) {
    for (at, out) in out.iter_mut().enumerate() {
        *out = d * TWO_BITS[usize::from(row >> (2 * at) & 3)] * sign(signs, at);
    }
}

/// Eight elements: two rows of a grid of IQ3.
fn two_fours(out: &mut [f32], d: f32, rows: [u16; 2], values: &[f32; 8], signs: u8) {
    for (at, out) in out.iter_mut().enumerate() {
        *out = d * values[usize::from(rows[at / 4] >> (at % 4 * 4) & 7)] * sign(signs, at);
    }
}

/// Eight elements: a row of the grid of IQ1.
fn ternary(out: &mut [f32], d: f32, row: u16, delta: f32) {
    for (at, out) in out.iter_mut().enumerate() {
        *out = d * (f32::from(row >> (2 * at) & 3) - 1.0 + delta);
    }
}

pub(in super::super) fn iq2_xxs(bytes: &[u8], out: &mut [f32]) {
    each::<66>(bytes, out, SUPER_BLOCK, |block, out| {
        let d = half(block, 0);
        for (part, out) in block[2..].chunks_exact(8).zip(out.chunks_exact_mut(32)) {
            let more = u32::from_le_bytes([part[4], part[5], part[6], part[7]]);
            let d = d * (0.5 + (more >> 28) as f32) * 0.25;
            for (at, out) in out.chunks_exact_mut(8).enumerate() {
                eight(out, d, IQ2_XXS[usize::from(part[at])], signs(more >> (7 * at)));
            }
        }
    });
}

pub(in super::super) fn iq2_xs(bytes: &[u8], out: &mut [f32]) {
    each::<74>(bytes, out, SUPER_BLOCK, |block, out| {
        let (d, codes, scales) = (half(block, 0), &block[2..66], &block[66..]);
        for (at, out) in out.chunks_exact_mut(8).enumerate() {
            let d = d * (0.5 + f32::from(nibble(scales, at / 2))) * 0.25;
            let code = word(codes, at);
            eight(out, d, IQ2_XS[usize::from(code & 511)], signs((code >> 9).into()));
        }
    });
}

pub(in super::super) fn iq2_s(bytes: &[u8], out: &mut [f32]) {
    each::<82>(bytes, out, SUPER_BLOCK, |block, out| {
        let (d, low, signs, high, scales) =
            (half(block, 0), &block[2..34], &block[34..66], &block[66..74], &block[74..]);
        for (at, out) in out.chunks_exact_mut(8).enumerate() {
            let d = d * (0.5 + f32::from(nibble(scales, at / 2))) * 0.25;
            let high = usize::from(high[at / 4] >> (at % 4 * 2) & 3);
            eight(out, d, IQ2_S[usize::from(low[at]) | high << 8], signs[at]);
        }
    });
}

pub(in super::super) fn iq3_xxs(bytes: &[u8], out: &mut [f32]) {
    each::<98>(bytes, out, SUPER_BLOCK, |block, out| {
        let (d, codes, more) = (half(block, 0), &block[2..66], &block[66..]);
        for (at, out) in out.chunks_exact_mut(32).enumerate() {
            let more = u32::from(word(more, 2 * at)) | u32::from(word(more, 2 * at + 1)) << 16;
            let d = d * (0.5 + (more >> 28) as f32) * 0.5;
            for (group, out) in out.chunks_exact_mut(8).enumerate() {
                let codes = &codes[8 * at + 2 * group..];
                let rows = [IQ3_XXS[usize::from(codes[0])], IQ3_XXS[usize::from(codes[1])]];
                two_fours(out, d, rows, &THREE_BITS_XXS, signs(more >> (7 * group)));
            }
        }
    });
}

pub(in super::super) fn iq3_s(bytes: &[u8], out: &mut [f32]) {
    each::<110>(bytes, out, SUPER_BLOCK, |block, out| {
        let (d, low, high, signs, scales) =
            (half(block, 0), &block[2..66], &block[66..74], &block[74..106], &block[106..]);
        let row = |at: usize| IQ3_S[usize::from(low[at]) | usize::from(high[at / 8] >> (at % 8) & 1) << 8];
        for (at, out) in out.chunks_exact_mut(8).enumerate() {
            let d = d * f32::from(1 + 2 * nibble(scales, at / 4));
            two_fours(out, d, [row(2 * at), row(2 * at + 1)], &THREE_BITS_S, signs[at]);
        }
    });
}

pub(in super::super) fn iq1_s(bytes: &[u8], out: &mut [f32]) {
    each::<50>(bytes, out, SUPER_BLOCK, |block, out| {
        let (d, low, high) = (half(block, 0), &block[2..34], &block[34..]);
        for (at, out) in out.chunks_exact_mut(8).enumerate() {
            let more = word(high, at / 4);
            let d = d * f32::from(2 * (more >> 12 & 7) + 1);
            let delta = if more >> 15 == 0 { DELTA } else { -DELTA };
            let high = usize::from(more >> (at % 4 * 3) & 7);
            ternary(out, d, IQ1_S[usize::from(low[at]) | high << 8], delta);
        }
    });
}

pub(in super::super) fn iq1_m(bytes: &[u8], out: &mut [f32]) {
    each::<56>(bytes, out, SUPER_BLOCK, |block, out| {
        let (low, high, scales) = (&block[..32], &block[32..48], &block[48..]);
        // The f16 scale lies in the upper four bits of four words, lowest first.
        let bits = (0..4).fold(0, |bits, at| bits | (word(scales, at) >> 12) << (4 * at));
        let d = f16::from_bits(bits).to_f32();
        for (at, out) in out.chunks_exact_mut(8).enumerate() {
            let scale = word(scales, at / 8) >> (at / 2 % 4 * 3) & 7;
            let more = nibble(high, at);
            let delta = if more & 8 == 0 { DELTA } else { -DELTA };
            let row = IQ1_S[usize::from(low[at]) | usize::from(more & 7) << 8];
            ternary(out, d * f32::from(2 * scale + 1), row, delta);
        }
    });
}
