"""WHICH point comes next: the search space, the history, the searcher and its algorithms.

May import: values, errors, hyperopt, numpy, and of Ray only the searcher's base class. Private
parts of hyperopt are in ``fast_tpe`` (its posterior), ``space``, ``labels`` and ``evaluation`` (the
nodes of its expressions). ``evaluation`` is worker code.
"""
