"""WHICH point comes next: the search space, the history, the searcher and its algorithms.

May import: values, errors, hyperopt, and of Ray only the searcher's base class. Two modules use
private parts of hyperopt: ``fast_tpe`` its posterior, ``space`` the nodes of its expressions.
"""
