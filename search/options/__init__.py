"""WHAT WAS ASKED: the command line, read and checked once, into one frozen value.

May import: values, errors, the kinds of task, and what names users and credentials in ``record``.
Light: ``--help`` imports it.
"""
