"""Many scenes: find and pair products, plan, run each scene in a process of its own, keep the state, sum up.

The order of steps stands in :mod:`hsfuse.workflows.batch.command`; every other module is one of them.
"""
