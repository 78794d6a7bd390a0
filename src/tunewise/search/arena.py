"""What every bracket of a run shares."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewise.config import Task
from tunewise.evaluation.metrics import METRICS
from tunewise.runs import Run
from tunewise.search.stopper import Stopper
from tunewise.search.watch import Watcher
from tunewise.types import Prediction, Target


@dataclass
class Arena:
    """What every bracket of a run shares."""

    run: Run
    task: Task
    stopper: Stopper
    watcher: Watcher
    targets: Sequence[Target] = ()
    """Of the race part."""
    clusters: Sequence[str | None] | None = None
    """Of the race part, where the task names a cluster."""
    clock_stopped: bool = False
    """Whether the clock ended the search, in this sitting or, played back, in an earlier one."""

    def judge(self, predictions: Sequence[Prediction], labels: Sequence[str]) -> np.ndarray:
        """The metric's statistics [examples, K] of predictions on race."""
        return METRICS.get(self.task.metric).statistics(self.targets, predictions, labels)
