#!/usr/bin/env bash
# Lints the model folders in or below which the given files lie. Exit code: the highest of lint's.
shopt -s nullglob nocaseglob

# What lint takes for a model folder, and a folder that holds weights of another kind.
is_model() {
  local found=("$1"/*.safetensors "$1"/*.safetensors.index.json)
  [ ${#found[@]} -gt 0 ] || { [ -e "$1/config.json" ] && holds_weights "$1"; }
}
holds_weights() {
  local found=("$1"/*.{bin,pt,pth,pkl,pickle,ckpt,joblib,dill,h5,hdf5,keras,msgpack,onnx,gguf,ggml,llamafile})
  [ ${#found[@]} -gt 0 ]
}

folders=()
last=
for file; do
  case $file in */*) folder=${file%/*} ;; *) folder=. ;; esac
  [ "$folder" = "$last" ] && continue
  last=$folder
  # The outermost model folder, as its examination takes in all below it; else the innermost with weights.
  found=
  loose=
  while :; do
    if is_model "$folder"; then
      found=$folder
    elif [ -z "$loose" ] && holds_weights "$folder"; then
      loose=$folder
    fi
    case $folder in . | /) break ;; */*) folder=${folder%/*} ;; *) folder=. ;; esac
  done
  found=${found:-$loose}
  [ -n "$found" ] || continue
  for known in ${folders[@]+"${folders[@]}"}; do
    [ "$known" = "$found" ] && continue 2
  done
  folders+=("$found")
done

code=0
for folder in ${folders[@]+"${folders[@]}"}; do
  # Quoted, in ASCII alone and without #: a name must not be taken for a line of the log or a command in it.
  quoted=$(LC_ALL=C && printf '%q' "$folder")
  printf 'lint of %s\n' "${quoted//\#/\\043}"
  achilles-audit lint -- "$folder"
  of_folder=$?
  [ $of_folder -gt $code ] && code=$of_folder
done
exit $code
