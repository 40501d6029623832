"""The supervisor and the services it keeps alive: redis, short pool, scheduler, local training slot.

Owns starting, restarting, stopping and their logs. Refuses to signal a process it did not start itself.
"""
