"""WHICH point comes next: the search space, the history, the searcher and its algorithms.

May import: values, errors, hyperopt, and of Ray only the searcher's base class. ``fast_tpe`` alone
uses private parts of hyperopt. ``evaluation`` is worker code.
"""
