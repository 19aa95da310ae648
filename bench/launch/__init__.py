"""Execution of runs: in this process, or through submitit as processes of this machine or as Slurm jobs.

resources.py   what a job asks for: options, and the user's file of defaults
job.py         what happens on the node: one run, continued whenever its job is started again
submit.py      a grid of runs becomes an array of jobs
slurm.py       state of jobs in Slurm
watch.py       status of runs, from their folders and the scheduler
"""
