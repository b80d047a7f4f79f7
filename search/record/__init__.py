"""WHAT IS KEPT: the journal, the runs in MLflow, and searches read back from there.

``store`` writes runs and ``ledger`` reads them. Before them come ``server``, ``database`` and
``connection``, which reach a store and make it. The state folder is here, too. May import: values,
errors, MLflow, SQLAlchemy, requests, and of Ray only the callback's base class.
"""
