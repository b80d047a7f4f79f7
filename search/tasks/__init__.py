"""WHAT is searched: one folder a kind of task, behind one interface (``base``).

A kind's folder knows its data, its trials and its model; nobody outside knows any of that. May
import: values, errors, ``suggest.space``, and ``trainables``, which nothing else here does.
"""
