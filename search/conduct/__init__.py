"""Runs a search from start to end. ``search`` lists the steps; the other modules are one step each.

The only room that knows all others. May import: everything but the commands.
"""
