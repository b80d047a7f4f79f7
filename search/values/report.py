"""The keys of a worker's report: what Ray Tune carries from a trial to scheduler and callbacks.

A trial reports at each rung and at its end. A report has the piece of the curve since the last
one, so that each value travels once.
"""

SCORE = "score"  # the best score so far, in the metric's own sign; absent: there is none yet
BEST_ITERATION = "best_iteration"  # its 0-based round
ROUND = "round"  # how many rounds the trial has done
CURVE = "curve"  # the scores since the last report [rounds]
CURVE_START = "curve_start"  # the round, from 0, of the first of them
STEPS = "steps"  # instead of it: the step of each of them, ascending, if a trial counts by itself
FIT_SECONDS = "fit_seconds"  # since the trial began
FINAL = "final"  # true in the last report of a trial that was not stopped
FAILURE = "failure"  # the last line of the error that ended the trial
TRACEBACK = "traceback"
EXTRA = "extra"  # bytes for the task's own code in the driver
