#!/usr/bin/env python3
"""Quantizes a GGUF anew: its weights are decoded, rounded to bf16 as `achilles-audit import` does, and quantized.

    pip install gguf
    python benches/quantize_gguf.py MODEL.gguf OUT
    pip install llama-cpp-python            # for Q4_K_M, which gguf does not write

Makes OUT/bf16.gguf, OUT/q8_0.gguf with gguf's own code and OUT/q4_k_m.gguf with llama.cpp's; exits with 1 where
llama-cpp-python is not installed and the last is not made.
"""

import sys
from pathlib import Path

import numpy
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, quants

FORMS = {
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}


def write(source, path, quantization, file_type):
    architecture = source.get_field("general.architecture").contents()
    writer = GGUFWriter(path, architecture)
    for field in source.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = int(file_type) if field.name == "general.file_type" else field.contents()
        kind = field.types[0]
        writer.add_key_value(field.name, value, kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    for tensor in source.tensors:
        if tensor.tensor_type == GGMLQuantizationType.F32:
            writer.add_tensor(tensor.name, tensor.data)
            continue
        values = quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        values = quants.dequantize(quants.quantize(values, GGMLQuantizationType.BF16), GGMLQuantizationType.BF16)
        writer.add_tensor(tensor.name, quants.quantize(values, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(path, flush=True)


def main():
    source, out = GGUFReader(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name, (quantization, file_type) in FORMS.items():
        write(source, out / f"{name}.gguf", quantization, file_type)
    try:
        import llama_cpp
    except ImportError:
        sys.exit("q4_k_m.gguf is not made: llama-cpp-python is not installed")
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    path = out / "q4_k_m.gguf"
    if llama_cpp.llama_model_quantize(str(out / "bf16.gguf").encode(), str(path).encode(), parameters):
        sys.exit("llama.cpp does not quantize it")
    print(path)


main()
