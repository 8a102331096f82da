#!/usr/bin/env bash
# Lints the model folders that hold the given files. Exit code: the highest of lint's.
shopt -s nullglob
code=0
last=
for file; do
  case $file in */*) folder=${file%/*} ;; *) folder=. ;; esac
  weights=("$folder"/*.{safetensors,safetensors.index.json,bin,pt,pth,pkl,ckpt})
  if [ "$folder" != "$last" ] && [ ${#weights[@]} -gt 0 ]; then
    last=$folder
    printf '%s:\n' "$folder"
    achilles-audit lint -- "$folder"
    of_folder=$?
    [ $of_folder -gt $code ] && code=$of_folder
  fi
done
exit $code
