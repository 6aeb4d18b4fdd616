#!/usr/bin/env bash
# Fuse every PRISMA product of a folder with the Sentinel-2 product that lies under the same name.
#
#   run_folder.sh PRISMA_FOLDER S2_FOLDER OUT_FOLDER [flags of `hsfuse run`]
#
# Pairing: PRISMA_FOLDER/<name>.he5 goes with S2_FOLDER/<name>.SAFE, or with the only .SAFE in S2_FOLDER/<name>/.
# Finished scenes are skipped; an interrupted scene goes on where it stopped. Exit status: 0 when all scenes are
# done, 9 when some failed (their exit codes are listed at the end).
set -uo pipefail
shopt -s nullglob

prisma_folder=$1 s2_folder=$2 out_folder=$3
shift 3
mkdir -p "$out_folder"
failed=()
for prisma in "$prisma_folder"/*.he5; do
  name=$(basename "$prisma" .he5)
  out="$out_folder/$name.tif"
  if [[ -f $out ]]; then
    echo "$name: done before"
    continue
  fi
  candidates=("$s2_folder/$name.SAFE" "$s2_folder/$name"/*.SAFE)
  s2=""
  for candidate in "${candidates[@]}"; do
    [[ -d $candidate ]] && s2=$candidate && break
  done
  if [[ -z $s2 ]]; then
    echo "$name: no Sentinel-2 product found" >&2
    failed+=("$name (no Sentinel-2 product)")
    continue
  fi
  hsfuse run "$prisma" "$s2" -o "$out" --resume "$@"
  code=$?
  if [[ $code -eq 130 ]]; then
    exit 130
  elif [[ $code -ne 0 ]]; then
    failed+=("$name (exit code $code)")
  fi
done
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 9
fi
