#!/usr/bin/env bash
# Builds what a release holds for one target: the binary in an archive, the wheel, and the bill of materials of both.
#   scripts/release.sh x86_64-unknown-linux-gnu dist
# On Linux the wheel is built against an old glibc (manylinux_2_28) by zig, and its binary is the one in the archive.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?a target, such as x86_64-unknown-linux-gnu}
dist=${2:?a folder for what is made}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
mkdir -p "$dist"
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT

python=python3
command -v python3 >/dev/null || python=python
"$python" -m venv "$tools/venv"
bin="$tools/venv/bin"
[ -d "$bin" ] || bin="$tools/venv/Scripts"
case "$target" in
  *-linux-gnu) how=(--zig --compatibility manylinux_2_28) ;;
  *) how=() ;;
esac
# Where maturin looks for zig.
export PATH="$bin:$PATH"
"$bin/python" -m pip install --quiet "maturin[zig]>=1.9,<2"
rustup target add "$target" 2>/dev/null || true
"$bin/maturin" build --release --locked --target "$target" ${how[@]+"${how[@]}"} --out "$dist"

name="achilles-audit-$version-$target"
mkdir "$tools/$name"
cp README.md LICENSE CHANGELOG.md "$tools/$name"
case "$target" in
  *windows*)
    cp "target/$target/release/achilles-audit.exe" "$tools/$name"
    "$python" -m zipfile -c "$dist/$name.zip" "$tools/$name"
    ;;
  *)
    cp "target/$target/release/achilles-audit" "$tools/$name"
    tar -C "$tools" -czf "$dist/$name.tar.gz" "$name"
    ;;
esac

cargo install --quiet --locked --root "$tools/cargo" cargo-cyclonedx
"$tools/cargo/bin/cargo-cyclonedx" cyclonedx --format json --target "$target" --override-filename "$name.cdx"
mv "$name.cdx.json" "$dist"
ls -l "$dist"
