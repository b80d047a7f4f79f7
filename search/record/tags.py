"""The names under which a search's state is kept in MLflow. Older searches rely on them.

Those that depend on the metric are properties of :class:`search.values.metric.Metric`.
"""

from __future__ import annotations

from collections.abc import Mapping

PARENT = "mlflow.parentRunId"
ROLE = "search.role"  # search, trial or refit
TASK = "search.task"  # the kind of task
METRIC = "search.metric"
DIRECTION = "search.direction"  # of the metric
TRIAL_ID = "search.trial_id"
STATUS = "search.status"  # a trial's
FAILURE = "search.failure"
POINT = "search.point"  # the trial's parameters as JSON: a param is text only
RUNGS = "search.rungs"  # JSON: round -> best score by then, as the scheduler saw it
OPTIONS = "search.options"  # JSON: what the command was given
DRIVER = "search.driver"
BEAT = "search.heartbeat"
STATE_DIR = "search.state_dir"
BEST_TRIAL = "search.best_trial_id"
SUPERSEDED = "search.superseded"  # of a refit: the run that replaces it
VERSION = "search.version"  # of the registered model
ALIAS = "search.alias"
STANDING = "search.standing"  # why the version has its alias
TRACEBACK = "search.traceback"  # the end of it, if it cannot be an artifact
COMMIT = "mlflow.source.git.commit"

# a tag of a registered version
SEARCH = "search"  # the name of the search that made it

# params of the parent run; the first is a tag of a version, too
DATA_DIGEST = "data.digest"  # of the rows that were trained and scored on
SPACE_DIGEST = "space.digest"

# metrics of a trial's run
BEST_ITERATION = "best_iteration"  # the 0-based round of its score
FIT_SECONDS = "fit_seconds"  # of a trial

# MLflow's status of a trial's run, by the trial's
RUN_STATUS = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}

LONGEST_TAG = 8_000  # characters (mlflow.utils.validation)


def long_tag(name: str, text: str) -> dict[str, str]:
    """Return a text of any length as tags: ``name``, ``name.2``, ...

    The last is never full, so one left over from a longer text is not read as a part of this one.
    """
    parts = [text[i : i + LONGEST_TAG] for i in range(0, len(text) + 1, LONGEST_TAG)]
    return {f"{name}.{i}" if i > 1 else name: part for i, part in enumerate(parts, 1)}


def read_long_tag(tags: Mapping[str, str], name: str) -> str:
    """Return the text that :func:`long_tag` cut; empty if there is none."""
    parts = [tags.get(name, "")]
    while len(parts[-1]) == LONGEST_TAG:
        parts.append(tags.get(f"{name}.{len(parts) + 1}", ""))
    return "".join(parts)
