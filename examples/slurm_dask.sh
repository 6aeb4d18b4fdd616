#!/usr/bin/env bash
#SBATCH --job-name=hsfuse-dask
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=2G
#SBATCH --time=08:00:00
#SBATCH --output=hsfuse_%j.log
# A Dask cluster inside one SLURM job, over as many nodes as it got: one worker per task, one scene per worker.
# When the time limit ends the job, submit it again: it goes on.
#
#   sbatch --ntasks=8 slurm_dask.sh PRISMA_FOLDER S2_FOLDER OUT_FOLDER [flags of `hsfuse batch`]
#
# DASK_INTERFACE names the network interface between the nodes, such as ib0; default: Dask's choice.
set -euo pipefail
prisma=$1 s2=$2 out=$3
shift 3
threads=${SLURM_CPUS_PER_TASK:-1}
memory=$((${SLURM_MEM_PER_CPU:-2048} * threads))MB
interface=(${DASK_INTERFACE:+--interface "$DASK_INTERFACE"})
mkdir -p "$out"
scheduler_file=$(mktemp "$PWD/scheduler_XXXXXX.json")
rm "$scheduler_file"

dask scheduler --scheduler-file "$scheduler_file" --port 0 --no-dashboard "${interface[@]}" &
started=($!)
trap 'kill "${started[@]}" 2>/dev/null; rm -f "$scheduler_file"' EXIT
until [[ -s $scheduler_file ]]; do sleep 0.5; done
srun --ntasks="${SLURM_NTASKS:-1}" dask worker --scheduler-file "$scheduler_file" --nthreads 1 \
  --memory-limit "$memory" --no-dashboard "${interface[@]}" &
started+=($!)
hsfuse batch "$prisma" --s2 "$s2" -o "$out" --scheduler "$scheduler_file" --threads "$threads" "$@"
