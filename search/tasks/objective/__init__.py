"""A function of the user's own, minimised over a search space of hyperopt's."""
