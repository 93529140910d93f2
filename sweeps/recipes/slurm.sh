#!/bin/bash
# Workers of one ablation as a Slurm array, without submitit: sbatch sweeps/recipes/slurm.sh
# (`steelyard run SPEC --launcher slurm --jobs 4` submits the same, settles what `auto` stands for on
# the login node, and queues a job again that comes to its time limit.)
#SBATCH --job-name=steelyard
#SBATCH --array=0-3
#SBATCH --cpus-per-task=2
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
srun steelyard work sweeps/demo.toml --out /shared/demo
