"""What the rooms exchange: metric, trials and their outcomes, events, reports, data.

Plain frozen values with no behaviour beyond themselves. May import: the standard library, numpy.
"""
