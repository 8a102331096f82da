//! Packed elements to f32, bit-equal to gguf-py's `gguf.quants.dequantize`.

use super::Checked;
use super::types::{Decoder, GgmlType};
use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;

/// Elements one thread decodes at a time; a multiple of every block size.
const CHUNK_ELEMENTS: usize = 16_384;

/// Decodes whole blocks into `out`, in parallel where there are many. The error is a text without the tensor's name.
pub(super) fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Checked<()> {
    let Some(decoder) = ty.decoder else {
        return Err(format!("has type {}, which cannot be read; readable are {}", ty.name, GgmlType::supported()));
    };
    if ty.bytes_of(out.len()) != Some(bytes.len()) {
        return Err(format!("{} elements of {} do not take {} bytes", out.len(), ty.name, bytes.len()));
    }
    if out.len() <= CHUNK_ELEMENTS {
        return decode(decoder, bytes, out);
    }
    let chunk_bytes = CHUNK_ELEMENTS / ty.block_elements * ty.block_bytes;
    out.par_chunks_mut(CHUNK_ELEMENTS)
        .zip(bytes.par_chunks(chunk_bytes))
        .try_for_each(|(out, bytes)| decode(decoder, bytes, out))
}

fn decode(decoder: Decoder, bytes: &[u8], out: &mut [f32]) -> Checked<()> {
    match decoder {
        Decoder::F32 => each(bytes, out, f32::from_le_bytes),
        Decoder::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        Decoder::Bf16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        Decoder::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
        Decoder::Blocks(dtype) => return decode_blocks(dtype, bytes, out),
    }
    Ok(())
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (y, x) in out.iter_mut().zip(elements) {
        *y = decode(*x);
    }
}

fn decode_blocks(dtype: GgmlDType, bytes: &[u8], out: &mut [f32]) -> Checked<()> {
    // candle asserts that blocks lie on even addresses, which the alignment of GGUF data (8 at least) makes sure of.
    if bytes.as_ptr().align_offset(align_of::<f16>()) != 0 {
        return Err("its blocks lie on odd addresses".to_owned());
    }
    match dtype.from_data(Cow::Borrowed(bytes)).dequantize(out.len()) {
        Ok(CpuStorage::F32(values)) if values.len() == out.len() => {
            out.copy_from_slice(&values);
            Ok(())
        }
        Ok(_) => Err("did not decode to f32".to_owned()),
        Err(e) => Err(format!("does not decode: {e}")),
    }
}
