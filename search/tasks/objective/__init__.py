"""A user's own function of a point. May import: what ``search.tasks`` may, and cloudpickle."""
