"""Learning curves of a training on clean images, measured as adversarial training measures its."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from deitsec.models import Classifier
from deitsec.studies.study import StudyRun
from deitsec.training import AdversarialConfig, FitConfig, FitResult, TrainingEvent
from deitsec.training.loop import split_rows
from deitsec.training.watch import Watch


class UndefendedCurve:
    """Measures a network after each epoch; nothing of it reaches the training.

    Each point is a piece of the study, so that those before a stop are there after it.

    Args:
        run: of a study.
        network: that is trained.
        config: of its training.
        eps: L-infinity radius of the PGD that the points are measured under.
        rows: images of each split that a point takes, at most.
    """

    def __init__(
        self, run: StudyRun[Any], network: Classifier, config: FitConfig, *, eps: float, rows: int
    ) -> None:
        assert run.data.train is not None
        train_rows, _ = split_rows(run.data.train.labels, config)
        plan = AdversarialConfig(fit=config, eps=eps, curve_rows=rows)
        self._run, self._network = run, network
        self._watch = Watch(plan, train_rows, run.data.test)
        self._points: dict[int, dict[str, float]] = {}

    def told(self, progress: Callable[[TrainingEvent], object]) -> Callable[[TrainingEvent], None]:
        """A progress callback that measures at the end of an epoch."""

        def tell(event: TrainingEvent) -> None:
            progress(event)
            if event.step == event.steps:
                self._points[event.epoch] = self._point(event.epoch)

        return tell

    def drawn(self, result: FitResult) -> FitResult:
        """The result with the points in its history."""
        history = [
            replace(
                record,
                measured={
                    **record.measured,
                    **(self._points.get(record.epoch) or self._point(record.epoch)),
                },
            )
            for record in result.history
        ]
        return replace(result, history=tuple(history))

    def _point(self, epoch: int) -> dict[str, float]:
        train = self._run.data.train
        assert train is not None
        nobody = torch.empty(0, dtype=torch.int64)
        name = f"undefended-curve-{epoch}"
        found = self._run.part(
            name, lambda: self._watch.judge(self._network, train, nobody, ()).measured
        )
        # not asked for again once the network is there: it would count in a first run only
        self._run.workbook.seconds.pop(name, None)
        return found
