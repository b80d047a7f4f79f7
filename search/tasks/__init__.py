"""WHAT is searched: one folder a kind of task, behind one interface (``base``).

A kind's folder knows its data, its trials and its model; nobody outside knows any of that, but
``conduct/fmin.py``, which is the objective task's front in Python. May import: values, errors, the
search spaces of ``suggest``, the libraries of its data and models (pandas, pyarrow, scikit-learn,
MLflow), and ``trainables``, which nothing else here does.
"""
