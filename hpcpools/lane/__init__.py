"""The Slurm lane: short tasks carried by shared Slurm jobs, in batches that are durable before sbatch.

Owns the way from a claimed RQ job to a batch on the shared file system and from its end marker back to RQ.
Refuses to give a job back while a copy of it may run: only its claim, or Slurm's word, decides that.
"""
