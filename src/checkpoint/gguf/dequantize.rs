//! Packed elements to f32, bit-equal to gguf-py's `gguf.quants.dequantize`.

use super::Checked;
use super::types::GgmlType;
use rayon::prelude::*;

/// Elements one thread decodes at a time; a multiple of every block size.
const CHUNK_ELEMENTS: usize = 16_384;

/// Decodes whole blocks into `out`, in parallel where there are many. The error is a text without the tensor's name.
pub(in crate::checkpoint) fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Checked<()> {
    let Some(decode) = ty.decode else {
        return Err(format!("has type {}, which cannot be read; readable are {}", ty.name, GgmlType::supported()));
    };
    if ty.bytes_of(out.len()) != Some(bytes.len()) {
        return Err(format!("{} elements of {} do not take {} bytes", out.len(), ty.name, bytes.len()));
    }
    if out.len() <= CHUNK_ELEMENTS {
        decode(bytes, out);
        return Ok(());
    }
    let chunk_bytes = CHUNK_ELEMENTS / ty.block_elements * ty.block_bytes;
    out.par_chunks_mut(CHUNK_ELEMENTS).zip(bytes.par_chunks(chunk_bytes)).for_each(|(out, bytes)| decode(bytes, out));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::file::GgufFile;
    use super::super::writer::{Writer, expected, fixture};
    use super::*;
    use half::f16;
    use sha2::{Digest, Sha256};

    #[test]
    fn every_type_is_bit_equal_to_gguf_py() {
        let file = GgufFile::open(&fixture("types.gguf")).unwrap();
        let expected = expected("types.json");
        let hashes = expected["sha256"].as_object().unwrap();
        for (name, info) in file.tensors() {
            let values = file.rows(name, 0..info.shape[0]).unwrap();
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hashes[name], hash, "{name}");
            assert_eq!(info.ty.name, name);
            let middle = file.rows(name, 1..2).unwrap();
            assert_eq!(middle.len(), 512);
            assert!(middle.iter().zip(&values[512..]).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: row 1");
        }
        let readable = GgmlType::supported();
        assert_eq!(readable.split(", ").count(), hashes.len(), "every readable type is in the fixture: {readable}");
    }

    #[test]
    fn chunks_of_a_large_tensor_meet() {
        let q8_0 = GgmlType::from_id(8).unwrap();
        let elements = 5 * CHUNK_ELEMENTS / 2;
        let blocks = elements / 32;
        let bytes: Vec<u8> =
            (0..blocks).flat_map(|i| [&f16::from_f32(i as f32).to_le_bytes()[..], &[1; 32]].concat()).collect();
        let mut out = vec![0.0; elements];
        dequantize(q8_0, &bytes, &mut out).unwrap();
        for (i, block) in out.chunks(32).enumerate() {
            assert!(block.iter().all(|x| *x == f16::from_f32(i as f32).to_f32()), "block {i}");
        }
    }

    #[test]
    fn elements_of_a_packed_vector_are_rows() {
        let mut data = f16::from_f32(2.0).to_le_bytes().to_vec();
        data.extend(0..32u8);
        let data = [data.clone(), data].concat();
        let file = Writer::new().tensor("v", &[64], 8, &data).file();
        let file = GgufFile::open(file.path()).unwrap();
        assert_eq!(file.rows("v", 30..34).unwrap(), [60.0, 62.0, 0.0, 2.0]);
        assert_eq!(file.rows("v", 64..64).unwrap(), [0.0; 0]);
        assert!(file.rows("v", 60..65).is_err());
    }

    #[test]
    fn unreadable_types_are_named() {
        let error = dequantize(GgmlType::from_id(9).unwrap(), &[0; 40], &mut [0.0; 32]).unwrap_err();
        assert!(error.contains("Q8_1") && error.contains("Q4_K"), "{error}");
    }
}
