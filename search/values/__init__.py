"""What the rooms exchange: metric, trials and outcomes, events, reports, data, models, URIs.

Plain frozen values, and pure functions of them: comparing scores, choosing the best trial, JSON of
an event, removing credentials. May import: the standard library, numpy, and each other.
"""
