"""Runs as jobs, through submitit: here, as processes of this machine, or on a Slurm cluster.

resources.py   what a job asks for: options, and the user's file of defaults
job.py         what happens on the node: one run, continued whenever its job is started again
submit.py      a grid of runs becomes an array of jobs
slurm.py       what Slurm says of jobs
watch.py       what runs are at, read off their folders and the scheduler
"""
