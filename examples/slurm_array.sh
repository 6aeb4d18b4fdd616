#!/usr/bin/env bash
#SBATCH --job-name=hsfuse
#SBATCH --array=1-10%4
#SBATCH --cpus-per-task=8
#SBATCH --mem=8G
#SBATCH --time=00:30:00
#SBATCH --output=hsfuse_%A_%a.log
# One scene per array task. PAIRS is a CSV file without header: PRISMA path,Sentinel-2 path,output path.
# Submit with: sbatch --array=1-$(wc -l < pairs.csv) --export=ALL,PAIRS=pairs.csv slurm_array.sh
set -euo pipefail
line=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "${PAIRS:?set PAIRS to a CSV file}")
IFS=, read -r prisma s2 out <<<"$line"
if [[ -f $out ]]; then
  echo "$out exists: nothing to do"
  exit 0
fi
exec hsfuse run "$prisma" "$s2" -o "$out" --resume --threads "${SLURM_CPUS_PER_TASK:-2}" --max-memory 6GB --json
