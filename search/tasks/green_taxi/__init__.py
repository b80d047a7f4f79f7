"""How many minutes will a green-taxi trip take? All that knows taxis is in this folder.

May import: what ``search.tasks`` may. ``served_model`` is kept in each logged model and runs where
``search`` is not installed, so it imports nothing of ours.
"""
