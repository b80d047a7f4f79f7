"""An objective task: a function of a point that a user has written, searched as it is."""
