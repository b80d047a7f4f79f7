"""The taxi task: January to train, February to validate, RMSE in minutes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import trainables
from search.errors import InputError
from search.suggest.space import Space
from search.tasks.base import Display, Prepared
from search.tasks.fixing import fixed
from search.tasks.green_taxi import features, months, served_model
from search.tasks.green_taxi.features import TaxiData
from search.tasks.green_taxi.libraries import FITTED_WITH
from search.tasks.green_taxi.months import Origin
from search.tasks.green_taxi.refit import TaxiRefit
from search.tasks.green_taxi.trial import TaxiTrial
from search.tasks.kinds import Request, Values
from search.values.data import DataDescription
from search.values.fitted_with import FittedWith
from search.values.metric import Metric
from trainables.base import Trainable

PREPROCESSING = "PU_DO + trip_distance, DictVectorizer, trips of 1 to 60 minutes"


@dataclass(frozen=True)
class GreenTaxi:
    """How many minutes will a trip take?"""

    values: Values
    trainable: Trainable
    space: Space
    settings: dict[str, Any]  # the trainable's, with "seed" and "threads"
    kind: ClassVar[str] = "taxi"
    metric: ClassVar[Metric] = Metric("rmse", "minimize", label="RMSE")

    @classmethod
    def open(cls, request: Request) -> GreenTaxi:
        """Read what is asked for.

        :raises InputError: unknown trainable or ``--set`` name.
        """
        name, overrides = request.values["trainable"], request.values["set"]
        try:
            trainable = trainables.get(name)
        except LookupError as error:
            raise InputError(f"--trainable: {error.args[0]}") from error
        if find_spec(f"mlflow.{trainable.flavor}") is None:
            raise InputError(
                f"--trainable {name}: MLflow has no flavor {trainable.flavor!r}; "
                "name one as in mlflow.sklearn"
            )
        space, settings = fixed(trainable.search_space, trainable.settings, overrides)
        settings |= {"seed": request.seed, "threads": request.threads}
        return cls(request.values, trainable, space, settings)

    @property
    def model(self) -> str:
        """The trainable's name."""
        return self.trainable.name

    @property
    def rounds(self) -> int | None:
        """The most rounds a fit may take; None for models without rounds."""
        return self.trainable.rounds(self.settings)

    @property
    def like_fmin(self) -> None:
        """Draw points our way."""

    @property
    def grace(self) -> int:
        """The rounds before a trial is judged, at least."""
        return 10

    @property
    def params(self) -> Mapping[str, Any]:
        """What was set, the trainable's settings and its name."""
        overrides = self.values["set"]
        settings = {name: value for name, value in self.settings.items() if name != "threads"}
        return {
            **{f"set.{name}": value for name, value in overrides.items()},
            **settings,
            "trainable": self.values["trainable"],
        }

    @property
    def warmup(self) -> str | None:
        """The module that the trainable has run once on a machine, if it has one."""
        made_once = getattr(self.trainable, "made_once", None)
        module: str | None = made_once(self.settings) if made_once else None
        return module

    def prepare(self, display: Display) -> Prepared:
        """Find, read and vectorize the trips.

        :raises InputError: they cannot be used.
        """
        located = months.locate(
            train=self.values["train_data"],
            valid=self.values["valid_data"],
            test=self.values["test_data"],
            source=months.Source(self.values["data_dir"], display),
        )
        data = features.prepare(located.train, located.valid, located.test)
        for line in (*_rows_used(data), *self._notes()):
            display.say(line)
        name = self.values["trainable"]
        return Prepared(
            trial=TaxiTrial(name, self.settings),
            refit=TaxiRefit(name, self.settings, data, made_up=located.origin == "sample"),
            shared=lambda: data.dataset,
            data=_description(data),
            params={
                "train-data-path": data.train.path,
                "valid-data-path": data.valid.path,
                "preprocessing": PREPROCESSING,
            },
            tags={"data.origin": located.origin},
            summary=_summary(data, located.origin),
            fitted_with=FITTED_WITH | self._own_code,
        )

    @property
    def _own_code(self) -> FittedWith:
        """What the trainable adds: its library, and its module if it is a user's own."""
        module, colon, _ = str(self.values["trainable"]).partition(":")
        return FittedWith(packages=(self.trainable.flavor,), modules=(module,) if colon else ())

    def _notes(self) -> Iterator[str]:
        """Yield what the user should know before the first trial."""
        if no_csv := served_model.no_csv():
            yield f"note: {no_csv}"
        note = getattr(self.trainable, "note", None)
        if note is not None and (line := note(self.settings)):
            yield line


def _rows_used(data: TaxiData) -> Iterator[str]:
    for role, used in data.by_role.items():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in used.dropped.items())
        yield f"{role}: {len(used.minutes):,} trips of {used.path}; dropped: {reasons or 'none'}"


def _description(data: TaxiData) -> DataDescription:
    return DataDescription(
        name="green-taxi trips",
        digest=data.dataset.digest,
        source={role: used.path for role, used in data.by_role.items()},
        profile={
            **{f"{role}_rows": len(used.minutes) for role, used in data.by_role.items()},
            "columns": int(data.dataset.train.features.shape[1]),
            "dropped": data.dropped,
        },
    )


def _summary(data: TaxiData, origin: Origin) -> dict[str, Any]:
    return {
        "origin": origin,
        "train_rows": len(data.train.minutes),
        "valid_rows": len(data.valid.minutes),
        "dropped": data.dropped,
        "digest": data.dataset.digest,
    }
