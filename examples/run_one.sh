#!/usr/bin/env bash
# Fuse one scene. Usage: run_one.sh PRISMA.he5 S2.SAFE OUT.tif [flags of `hsfuse run`]
set -euo pipefail
hsfuse run "$1" "$2" -o "$3" "${@:4}"
