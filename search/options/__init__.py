"""WHAT WAS ASKED: the command line, read and checked once, into one frozen value (``Settings``).

``parsing`` serves the parsers of all commands. May import: values, errors, the kinds of task, and
``record.provenance`` for the user's name. Light: ``--help`` imports it.
"""
