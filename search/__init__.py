"""Distributed hyperparameter search.

The top level has the commands (``run``, ``doctor``), the public API and the errors; everything else
is in one of the rooms below. ``docs/architecture.md`` describes them.
"""
