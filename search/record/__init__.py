"""WHAT IS KEPT: the journal, the runs in MLflow, and searches read back from there.

May import: values, errors, MLflow, and of Ray only the callback's base class. ``store`` is the one
door through which runs are written, ``ledger`` the one through which they are read.
"""
