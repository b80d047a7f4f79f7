"""WHAT ONE SEES: the progress display, the summary at the end, the terminal.

May import: values, errors, rich. Nothing here decides anything about a search.
"""
