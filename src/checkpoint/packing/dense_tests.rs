//! Dense weights and the blocks of a GGUF: all ways to a number lead to the same.

use super::*;
use crate::checkpoint::gguf::GgufCheckpoint;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};

/// All ways to a number of a weight lead to the same: rows, columns, and the bytes of a span.
#[test]
fn rows_columns_and_spans_agree() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (dtypes, shapes) =
        ([Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I32], [&[6][..], &[3, 4], &[2, 3, 4]]);
    let mut stored = Vec::new();
    for (dtype, shape) in dtypes.iter().flat_map(|dtype| shapes.map(|shape| (*dtype, shape))) {
        let mut bytes = Vec::new();
        let values: Vec<f64> = (0..shape.iter().product::<usize>()).map(|at| at as f64 - 5.0).collect();
        values.iter().for_each(|value| _ = NumberType::of(dtype).encode(*value, &mut bytes));
        stored.push((format!("{dtype}{}", shape.len()), dtype, shape, values, bytes));
    }
    let views = stored
        .iter()
        .map(|(name, dtype, shape, _, bytes)| (name.as_str(), TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    serialize_to_file(views, None, &path).unwrap();
    let (tensors, file) =
        (crate::checkpoint::Opened::folder_at(folder.path()).tensors().unwrap(), std::fs::read(&path).unwrap());
    for (name, dtype, shape, values, bytes) in &stored {
        let weight = tensors.weight(name).unwrap();
        assert_eq!((weight.shape(), weight.stored()), (*shape, vec![name.as_str()]));
        assert_eq!((weight.is_float(), weight.dtypes()), (*dtype != Dtype::I32, dtype.to_string()));
        let Layout { matrices, rows, columns, .. } = weight.layout();
        let all = weight.all().unwrap();
        let by_row: Vec<f64> = (0..matrices * rows).flat_map(|row| all.row::<f64>(row)).collect();
        assert_eq!(&by_row, values, "{name}");
        let column: Vec<f64> = all.column(matrices * columns - 1);
        let expected: Vec<f64> = (0..rows).map(|row| values[((matrices - 1) * rows + row + 1) * columns - 1]).collect();
        assert_eq!(column, expected, "{name}");
        assert!(all.row::<f64>(matrices * rows).is_empty() && !all.read(0, columns * rows * matrices, &mut [0.0f64]));
        let some = weight.rows(1..3).unwrap();
        assert_eq!(some.into_values::<f64>(), values[columns..3 * columns], "{name}");
        let problem = weight.rows(1..matrices * rows + 1).unwrap_err().to_string();
        assert!(problem.contains(&format!("has {} rows, asked for 1 to", matrices * rows)), "{problem}");
        let dense = weight.dense().unwrap();
        assert_eq!(&file[dense.place().start as usize..dense.place().end as usize], bytes);
        for (axis, index, values) in
            [(Axis::Row, 2, all.row::<f64>(2)), (Axis::Column, 3, all.column(3)), (Axis::Element, 5, vec![values[5]])]
        {
            let dimensions = if axis == Axis::Element { 1..=2 } else { 2..=3 };
            let fits = weight.is_float() && dimensions.contains(&shape.len());
            let span = dense.span(axis, index);
            assert_eq!(span.is_some(), fits, "{name} {axis:?}");
            if let Some(span) = span {
                let found: Vec<f64> = NumberType::of(*dtype).decode_all(&span.read(&file).unwrap());
                assert_eq!(found, values, "{name} {axis:?}");
                assert_eq!(span.read(&file[..span.offset as usize]), None);
            }
        }
    }
    assert!(tensors.weight("none").unwrap_err().to_string().contains("is missing from the checkpoint"));
}

#[test]
fn blocks_of_a_gguf_are_rows_of_floats() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/gguf/tiny-llama.gguf").as_ref();
    let (gguf, tensors) = (GgufCheckpoint::open(path).unwrap(), GgufCheckpoint::open(path).unwrap());
    let tensors = Tensors::from_gguf(tensors.into());
    for (name, shape) in gguf.tensors() {
        let (weight, expected) = (tensors.weight(name).unwrap(), gguf.rows(name, 0..shape[0]).unwrap());
        assert!(weight.is_float() && weight.is_packed() && weight.shape() == shape);
        assert_eq!(weight.rows(1..2).unwrap().into_values::<f32>(), gguf.rows(name, 1..2).unwrap());
        let all = weight.all().unwrap();
        let columns = weight.layout().columns;
        assert_eq!(all.row::<f32>(shape[0] - 1), expected[expected.len() - columns..]);
        assert_eq!(all.column::<f32>(0), expected.iter().step_by(columns).copied().collect::<Vec<_>>());
        assert_eq!(all.into_values::<f32>(), expected);
    }
}
