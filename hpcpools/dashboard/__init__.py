"""The dashboard: rq-dashboard's queues, workers and jobs, and our pages of runs, in one web app.

Owns the pages and who may see or change anything through them. Refuses to listen where other users are, to
change anything unless started so, and to run or trust any text that a job, a user or Redis holds.
"""
