"""WHAT COMES OUT: the refitted model, logged, loaded again, checked, and registered.

May import: values, errors, record (to write), MLflow, numpy, pandas.
"""
