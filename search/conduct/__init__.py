"""The order of it all. ``search`` reads as a table of contents; the other modules are its chapters.

The only room that knows all others. May import: everything but the commands.
"""
