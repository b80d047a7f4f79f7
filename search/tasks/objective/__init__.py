"""A user's own function of a point. May import: what ``search.tasks`` may, ``search.trial``,
``search.suggest``'s label spaces and seeds, cloudpickle, hyperopt, and in a worker MLflow.
"""
