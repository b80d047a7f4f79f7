"""WHICH point comes next: the search space, the history, the searcher and its algorithms.

May import: values, errors, hyperopt, and of Ray only the searcher's base class. Three modules use
private parts of hyperopt: ``fast_tpe`` its posterior, ``space`` and ``labels`` the nodes of its
expressions. ``evaluation`` is worker code.
"""
