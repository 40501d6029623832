"""The short pool: signed JSON jobs on RQ queues, run by a supervised set of workers on this machine.

Owns everything that knows rq. Refuses pickle, unsigned jobs, and callables that are not on the allow-list.
"""
