"""Opening a search: everything that can be refused before the first trial, in order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from search.conduct import resume
from search.conduct.plan import OpenTask, Plan, planned
from search.conduct.resume import Location
from search.conduct.session import Session
from search.errors import InputError, Interrupted, SearchError, TakenOver
from search.execute.cluster import Cluster, share
from search.execute.node_preflight import preflight
from search.execute.nodes import Nodes
from search.execute.warmup import warmup
from search.execute.worker import Shared
from search.options.settings import Settings
from search.record import provenance
from search.record.run_metadata import RunMetadata, author_and_code
from search.record.search_run import Drive, ParentRun, SearchDescription
from search.record.store_errors import first_line
from search.record.tags import CODE_DIGEST, DATA_DIGEST
from search.tasks.base import Prepared
from search.values.trial import best


@dataclass(frozen=True)
class Opened:
    """A search whose options, data and store are known to be usable."""

    plan: Plan
    prepared: Prepared
    metadata: RunMetadata
    location: Location
    known: resume.Known
    cluster: Cluster
    session: Session

    @property
    def is_complete(self) -> bool:
        """Tell whether nothing is left to do."""
        search, prior = self.location.search, self.known.prior
        return (
            search is not None
            and search.status == "FINISHED"
            and len(prior.ended) == self.plan.wanted
            and best(prior.ended, self.plan.task.metric) is not None
            and (self.prepared.refit is None or prior.is_refitted(self.plan.task.metric))
        )


@dataclass(frozen=True)
class Ready:
    """A cluster on which the search can begin."""

    nodes: Nodes
    shared: Shared


def open_search(
    asked: Settings, opened: OpenTask, session: Session, stack: contextlib.ExitStack
) -> Opened:
    """Read and check all that was asked for. What must be closed is entered into ``stack``.

    :raises InputError: something cannot be used.
    """
    location = resume.find(asked) if asked.resume else None
    plan = planned(resume.settings_of(location, asked), opened)
    cluster = session.cluster(plan.settings.machines.address, session.folder)
    warmed_up = stack.enter_context(warmup(plan.task.warmup if cluster.is_ours else None))
    prepared = plan.task.prepare(session.display)
    if location is None:
        is_file = plan.settings.tracking.uri.startswith("sqlite:")
        if is_file:  # its tables may have to be made, which takes seconds: Ray starts meanwhile
            stack.enter_context(cluster)
        location = resume.reach_new(plan.settings)
        if not is_file:  # a server may refuse, and a Ray that is starting cannot be ended at once
            stack.enter_context(cluster)
    metadata = _metadata(plan, prepared, location)
    if not metadata.commit_is_known:
        variable = provenance.COMMIT_VARIABLE
        session.say(f"warning: the git commit of the code is unknown; set {variable} to it")
    known = resume.known(location, plan, metadata, session)
    stack.callback(warmed_up)
    return Opened(plan, prepared, metadata, location, known, cluster, session)


def join_cluster(opened: Opened, stack: contextlib.ExitStack) -> Ready:
    """Wait for the cluster, check its nodes, and share the data.

    :raises InputError: no node has room for a trial, or trials would differ between nodes.
    :raises SearchError: Ray does not start.
    """
    cluster, session = opened.cluster, opened.session
    if opened.location.search is not None:
        stack.enter_context(cluster)
    cluster.join()
    session.stop.listen()  # `ray.init` has taken the signals over
    nodes = _checked_nodes(opened)
    return Ready(nodes, share(opened.prepared.shared()))


@contextlib.contextmanager
def driven(opened: Opened) -> Iterator[Drive]:
    """Make the parent run, or take it over; yield the search as driven by this process.

    :raises InputError: the name is taken, or another process drives the search.
    :raises SearchError: the server does not take what must be kept.
    :raises Interrupted: a signal came.
    """
    plan, session = opened.plan, opened.session
    settings, metadata = plan.settings, opened.metadata
    store = opened.location.store.patient(session.say)
    data = {} if metadata.data is None else {DATA_DIGEST: metadata.data.digest}
    description = SearchDescription(
        name=settings.name,
        task=plan.task.kind,
        metric=plan.task.metric,
        options=settings.kept,
        params={**plan.params, **data},
        metadata=metadata,
        state_dir=settings.state_dir,
        files=opened.prepared.files,
    )
    parent = ParentRun(store, description, session.stop.deferred)
    with _errors_say_how_to_go_on(settings):
        if opened.location.search is None:
            resume.check_name_is_free(store, settings)
        with parent.driven(opened.location.search, session.stop.fail) as drive:
            yield drive


def _metadata(plan: Plan, prepared: Prepared, location: Location) -> RunMetadata:
    """Return what all runs of the search say.

    Params cannot change: a search that goes on keeps what it said of its data, whose digest is the
    same, whatever its path is today.
    """
    before = {} if location.search is None else location.search.params
    developer = plan.settings.tracking.developer
    code = {CODE_DIGEST: prepared.code_digest} if prepared.code_digest else {}
    return RunMetadata(
        params={name: before.get(name, value) for name, value in prepared.params.items()},
        tags={**author_and_code(developer, plan.task.model), **code, **prepared.tags},
        data=prepared.data,
    )


def _checked_nodes(opened: Opened) -> Nodes:
    machines, session = opened.plan.settings.machines, opened.session
    fitted_with = opened.prepared.fitted_with
    nodes = Nodes(
        machines.cpus_per_trial,
        machines.max_concurrent,
        grows=not opened.cluster.is_ours,
        say=session.say,
        joined=lambda new: session.display.say_all(preflight(new, fitted_with).lines()),
    )
    if not opened.cluster.is_ours:  # our own node is this machine, with this environment
        checked = preflight(nodes.alive, fitted_with)
        session.display.say_all(checked.lines() or checked.verdict())
        checked.check()
    return nodes


@contextlib.contextmanager
def _errors_say_how_to_go_on(settings: Settings) -> Iterator[None]:
    """Add to what ends a search early how the user goes on with it."""
    go_on = f"go on with: {settings.resume_command}"
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: what has ended is kept; {go_on}") from None
    except Interrupted as error:
        raise Interrupted(f"{error}; {go_on}") from error
    except (InputError, TakenOver):
        raise
    except MlflowException as error:
        raise SearchError(f"the tracking server: {first_line(error)}; {go_on}") from error
    except SearchError as error:
        raise type(error)(f"{error}; {go_on}") from error
