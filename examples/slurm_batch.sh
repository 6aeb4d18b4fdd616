#!/usr/bin/env bash
#SBATCH --job-name=hsfuse-batch
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --output=hsfuse_%j.log
# A whole folder on one node, without Dask. When the time limit ends the job, submit it again: it goes on.
#
#   sbatch slurm_batch.sh PRISMA_FOLDER S2_FOLDER OUT_FOLDER [flags of `hsfuse batch`]
set -euo pipefail
prisma=$1 s2=$2 out=$3
shift 3
# The job's own limit, in MB, less a tenth for the page cache; without one, hsfuse takes 70 % of what is free.
memory=()
if [[ -n ${SLURM_MEM_PER_NODE:-} ]]; then
  memory=(--max-memory "$((SLURM_MEM_PER_NODE * 9 / 10))MB")
fi
exec hsfuse batch "$prisma" --s2 "$s2" -o "$out" "${memory[@]}" "$@"
