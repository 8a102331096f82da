#!/usr/bin/env bash
# What there is to measure on a GPU, in one go: parity with the CPU, then speed beside plain PyTorch.
#
#   cargo build --release --locked --features cuda        # or carry a binary that was built elsewhere
#   benches/gpu/run.sh BINARY OUT [DEVICE [SHAPE[:LAYERS] …]]
#
# Needs Python with torch and transformers (fixtures/requirements.txt) in PATH and a tokenizer.json in $TOKENIZER
# (default: the fixtures'). By default DEVICE is cuda:0 and the shapes are llama-1b and llama-8b; "cpu 64x4" tries
# the script; FIXTURES="llama gemma4" takes some of the fixtures, RUNS=1 one run. A shape has to fit the card: weights are
# streamed to it only where --weights stream asks for it.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$1 out=$2 device=${3:-cuda:0}
shapes=("${@:4}")
[ ${#shapes[@]} -gt 0 ] || shapes=(llama-1b llama-8b)
tokenizer=${TOKENIZER:-fixtures/tokenizer.json}
dtype=bf16
[ "$device" != cpu ] || dtype=f32
mkdir -p "$out"
{ nvidia-smi || true; "$binary" --version; } >"$out/machine.txt" 2>&1
python benches/gpu/parity.py "$binary" ${FIXTURES:-} --device "$device" | tee "$out/parity.txt" || echo "parity failed" >&2
for shape in "${shapes[@]}"; do
  name=${shape%%:*} layers=${shape#"$name"} model=$out/model-$name
  rm -rf "$model"
  python benches/gpu/generate.py "$name" "$model" --tokenizer "$tokenizer" ${layers:+--layers "${layers#:}"}
  # Once through the page cache, so that no side pays for the disk.
  cat "$model"/*.safetensors >/dev/null
  # Random weights do not collapse: the same few prefixes on both sides.
  python benches/speed.py "$model" --tool "$binary" --device "$device" --dtype "$dtype" --runs "${RUNS:-3}" \
    --max-neurons 8 --jobs exact,default,magnitude | tee "$out/speed-$name.txt"
  rm -rf "$model"
done
