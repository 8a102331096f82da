//! The blocks of GGML that are decoded, to f32, as what `dequantize_row_*` of ggml-quants.c computes, operation for
//! operation, so that values are bit-equal.

mod grids;
mod lattice;

use half::f16;
pub(super) use lattice::{iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs};

/// Decodes whole blocks: `bytes` and `out` hold as many of them.
pub(super) type Decode = fn(bytes: &[u8], out: &mut [f32]);

/// Elements of the K types' blocks.
const SUPER_BLOCK: usize = 256;
/// Elements of the other types' blocks.
const BLOCK: usize = 32;

fn each<const BYTES: usize>(bytes: &[u8], out: &mut [f32], elements: usize, decode: impl Fn(&[u8; BYTES], &mut [f32])) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    blocks.iter().zip(out.chunks_exact_mut(elements)).for_each(|(block, out)| decode(block, out));
}

/// The half-precision number at byte `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

pub(super) fn q4_0(bytes: &[u8], out: &mut [f32]) {
    each::<18>(bytes, out, BLOCK, |block, out| {
        let d = half(block, 0);
        for (at, byte) in block[2..].iter().enumerate() {
            out[at] = (f32::from(byte & 15) - 8.0) * d;
            out[at + 16] = (f32::from(byte >> 4) - 8.0) * d;
        }
    });
}

pub(super) fn q4_1(bytes: &[u8], out: &mut [f32]) {
    each::<20>(bytes, out, BLOCK, |block, out| {
        let (d, min) = (half(block, 0), half(block, 2));
        for (at, byte) in block[4..].iter().enumerate() {
            out[at] = f32::from(byte & 15) * d + min;
            out[at + 16] = f32::from(byte >> 4) * d + min;
        }
    });
}

/// The two five-bit numbers of byte `at`: its halves, and a bit each of `high`.
fn five_bits(byte: u8, high: &[u8], at: usize) -> (f32, f32) {
    let bit = |n: usize| high[n / 8] >> (n % 8) & 1;
    (f32::from(byte & 15 | bit(at) << 4), f32::from(byte >> 4 | bit(at + 16) << 4))
}

pub(super) fn q5_0(bytes: &[u8], out: &mut [f32]) {
    each::<22>(bytes, out, BLOCK, |block, out| {
        let d = half(block, 0);
        for (at, byte) in block[6..].iter().enumerate() {
            let (low, high) = five_bits(*byte, &block[2..6], at);
            out[at] = (low - 16.0) * d;
            out[at + 16] = (high - 16.0) * d;
        }
    });
}

pub(super) fn q5_1(bytes: &[u8], out: &mut [f32]) {
    each::<24>(bytes, out, BLOCK, |block, out| {
        let (d, min) = (half(block, 0), half(block, 2));
        for (at, byte) in block[8..].iter().enumerate() {
            let (low, high) = five_bits(*byte, &block[4..8], at);
            out[at] = low * d + min;
            out[at + 16] = high * d + min;
        }
    });
}

pub(super) fn q8_0(bytes: &[u8], out: &mut [f32]) {
    each::<34>(bytes, out, BLOCK, |block, out| {
        let d = half(block, 0);
        out.iter_mut().zip(&block[2..]).for_each(|(out, byte)| *out = f32::from(*byte as i8) * d);
    });
}

pub(super) fn q2_k(bytes: &[u8], out: &mut [f32]) {
    each::<84>(bytes, out, SUPER_BLOCK, |block, out| {
        let (scales, quants) = (&block[..16], &block[16..80]);
        let (d, min) = (half(block, 80), half(block, 82));
        // 16 elements a scale; those of 128 share 32 bytes, two bits each.
        for (sub, out) in out.chunks_exact_mut(16).enumerate() {
            let (d, min) = (d * f32::from(scales[sub] & 15), min * f32::from(scales[sub] >> 4));
            let (from, shift) = (sub / 8 * 32 + sub % 2 * 16, sub % 8 / 2 * 2);
            let bytes = &quants[from..from + 16];
            out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = d * f32::from(byte >> shift & 3) - min);
        }
    });
}

pub(super) fn q3_k(bytes: &[u8], out: &mut [f32]) {
    each::<110>(bytes, out, SUPER_BLOCK, |block, out| {
        let (high, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
        let d = half(block, 108);
        for (sub, out) in out.chunks_exact_mut(16).enumerate() {
            // Six bits a scale: four in the first 8 bytes, two in the last 4.
            let low = scales[sub % 8] >> (sub / 8 * 4) & 15;
            let d = d * (f32::from(low | (scales[8 + sub % 4] >> (sub / 4 * 2) & 3) << 4) - 32.0);
            let (from, shift, within) = (sub / 8 * 32 + sub % 2 * 16, sub % 8 / 2 * 2, sub % 2 * 16);
            for (at, out) in out.iter_mut().enumerate() {
                let less = if high[within + at] >> (sub / 2) & 1 == 1 { 0.0 } else { 4.0 };
                *out = d * (f32::from(quants[from + at] >> shift & 3) - less);
            }
        }
    });
}

/// Scale and minimum of 32 elements, six bits each, of Q4_K and Q5_K.
fn scale_and_min(scales: &[u8], sub: usize) -> (f32, f32) {
    let (scale, min) = match sub {
        0..4 => (scales[sub] & 63, scales[sub + 4] & 63),
        _ => (scales[sub + 4] & 15 | scales[sub - 4] >> 6 << 4, scales[sub + 4] >> 4 | scales[sub] >> 6 << 4),
    };
    (f32::from(scale), f32::from(min))
}

pub(super) fn q4_k(bytes: &[u8], out: &mut [f32]) {
    each::<144>(bytes, out, SUPER_BLOCK, |block, out| {
        let (d, min) = (half(block, 0), half(block, 2));
        let (scales, quants) = (&block[4..16], &block[16..]);
        for (sub, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, least) = scale_and_min(scales, sub);
            let (d, min) = (d * scale, min * least);
            let bytes = &quants[sub / 2 * 32..][..32];
            let shift = sub % 2 * 4;
            out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = d * f32::from(byte >> shift & 15) - min);
        }
    });
}

pub(super) fn q5_k(bytes: &[u8], out: &mut [f32]) {
    each::<176>(bytes, out, SUPER_BLOCK, |block, out| {
        let (d, min) = (half(block, 0), half(block, 2));
        let (scales, high, quants) = (&block[4..16], &block[16..48], &block[48..]);
        for (sub, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, least) = scale_and_min(scales, sub);
            let (d, min) = (d * scale, min * least);
            let bytes = &quants[sub / 2 * 32..][..32];
            let shift = sub % 2 * 4;
            for ((out, byte), high) in out.iter_mut().zip(bytes).zip(high) {
                *out = d * f32::from(byte >> shift & 15 | (high >> sub & 1) << 4) - min;
            }
        }
    });
}

pub(super) fn q6_k(bytes: &[u8], out: &mut [f32]) {
    each::<210>(bytes, out, SUPER_BLOCK, |block, out| {
        let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
        let d = half(block, 208);
        for (sub, out) in out.chunks_exact_mut(16).enumerate() {
            let d = d * f32::from(scales[sub] as i8);
            // Of each 128 elements the first 64 have the lower halves of 64 bytes, and each 32 two bits of 32 bytes.
            let (of, within) = (sub / 8, sub % 8);
            let low = &low[of * 64 + within % 4 * 16..][..16];
            let high = &high[of * 32 + within % 2 * 16..][..16];
            let (low_shift, high_shift) = (within / 4 * 4, within / 2 * 2);
            for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                *out = d * (f32::from(low >> low_shift & 15 | (high >> high_shift & 3) << 4) - 32.0);
            }
        }
    });
}

/// The 16 values of IQ4_NL and IQ4_XS, before scaling.
const NONLINEAR: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// Twice the values of a 4-bit float (OCP Microscaling Formats 1.0, E2M1); GGML has no −0.
const TWICE_E2M1: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// Elements by table, the lower halves of all bytes first.
fn looked_up(out: &mut [f32], d: f32, bytes: &[u8], table: &[f32; 16]) {
    let (low, high) = out.split_at_mut(bytes.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (d * table[usize::from(byte & 15)], d * table[usize::from(byte >> 4)]);
    }
}

pub(super) fn iq4_nl(bytes: &[u8], out: &mut [f32]) {
    each::<18>(bytes, out, BLOCK, |block, out| looked_up(out, half(block, 0), &block[2..], &NONLINEAR));
}

pub(super) fn iq4_xs(bytes: &[u8], out: &mut [f32]) {
    each::<136>(bytes, out, SUPER_BLOCK, |block, out| {
        let (d, high, low) = (half(block, 0), u16::from_le_bytes([block[2], block[3]]), &block[4..8]);
        for (sub, (out, bytes)) in out.chunks_exact_mut(32).zip(block[8..].chunks_exact(16)).enumerate() {
            let low = u16::from(low[sub / 2] >> (sub % 2 * 4) & 15);
            let scale = f32::from(low | (high >> (2 * sub) & 3) << 4) - 32.0;
            looked_up(out, d * scale, bytes, &NONLINEAR);
        }
    });
}

pub(super) fn mxfp4(bytes: &[u8], out: &mut [f32]) {
    each::<17>(bytes, out, BLOCK, |block, out| {
        // Half of 2^(e − 127), by its bits.
        let e = u32::from(block[0]);
        let d = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 });
        looked_up(out, d, &block[1..], &TWICE_E2M1);
    });
}

pub(super) fn nvfp4(bytes: &[u8], out: &mut [f32]) {
    each::<36>(bytes, out, 64, |block, out| {
        for ((out, bytes), scale) in out.chunks_exact_mut(16).zip(block[4..].chunks_exact(8)).zip(&block[..4]) {
            looked_up(out, half_e4m3(*scale), bytes, &TWICE_E2M1);
        }
    });
}

/// Half of what a float of four bits of exponent and three of mantissa is; its sign is not looked at.
fn half_e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (bits >> 3 & 15, f32::from(bits & 7));
    match exponent {
        _ if bits == 0x7f => 0.0,
        0 => mantissa / 512.0 * 0.5,
        _ => (1.0 + mantissa / 8.0) * f32::from_bits((u32::from(exponent) + 120) << 23) * 0.5,
    }
}

pub(super) fn tq1_0(bytes: &[u8], out: &mut [f32]) {
    each::<54>(bytes, out, SUPER_BLOCK, |block, out| {
        let d = half(block, 52);
        // Five digits of base 3 a byte, four in the last four bytes, as a fraction of 256: the first is its whole part
        // times 3, and so on.
        let (first, rest) = out.split_at_mut(160);
        let (second, third) = rest.split_at_mut(80);
        for (out, bytes) in [(first, &block[..32]), (second, &block[32..48]), (third, &block[48..52])] {
            for (digit, out) in out.chunks_exact_mut(bytes.len()).enumerate() {
                let power = 3u8.pow(digit as u32);
                for (out, byte) in out.iter_mut().zip(bytes) {
                    let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                    *out = d * (f32::from(digit) - 1.0);
                }
            }
        }
    });
}

pub(super) fn tq2_0(bytes: &[u8], out: &mut [f32]) {
    each::<66>(bytes, out, SUPER_BLOCK, |block, out| {
        let d = half(block, 64);
        for (part, out) in out.chunks_exact_mut(32).enumerate() {
            let bytes = &block[part / 4 * 32..][..32];
            let shift = part % 4 * 2;
            out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = d * (f32::from(byte >> shift & 3) - 1.0));
        }
    });
}
