"""Each task of a run beside the same task trained alone (`train --baselines`), on the same evaluation rows."""

from __future__ import annotations

from dataclasses import dataclass

from mtl.error_analysis import Joined, LabelledPredictions, compare_predictions, join_split
from mtl.errors import UserError
from mtl.intervals import Difference
from mtl.metrics import METRICS
from mtl.report import number
from mtl.run_record import RunRecord, read_record

BASELINES = "baselines"  # folder of a run that contains a run of each task alone
HEADER = ("task", "split", "metric", "together", "alone", "difference", "95% interval", "conclusion")


@dataclass(frozen=True)
class BaselineComparison:
    """A metric of a task, trained together with the others and alone, each at its best step.

    Attributes:
        task: The task.
        split: The evaluated split.
        metric: The metric.
        together: Its value in the run.
        alone: Its value in the run of the task alone.
        paired: Difference with its interval (paired bootstrap), or None if the predictions cannot be compared.
    """

    task: str
    split: str
    metric: str
    together: float
    alone: float
    paired: Difference | None

    def cells(self) -> tuple[str, ...]:
        """One row under `HEADER`."""
        bounds = f"[{self.paired.low:+.4f}, {self.paired.high:+.4f}]" if self.paired else "–"
        values = number(self.together), number(self.alone), f"{self.together - self.alone:+.4f}"
        reading = conclusion(self.paired, self.metric, "alone", "together") if self.paired else "–"
        return self.task, self.split, self.metric, *values, bounds, reading


def conclusion(difference: Difference, metric: str, first: str, second: str) -> str:
    """What a paired difference, second less first, says in words."""
    if not difference.excludes_zero:
        return "no clear difference"
    better = (difference.value > 0) == METRICS[metric].higher_is_better
    return f"{second if better else first} is better"


def compare_with_baselines(
    record: RunRecord, labelled: Joined, data_root: str | None = None
) -> list[BaselineComparison]:
    """Compare a run with its baselines; empty if there are none.

    Args:
        record: The run of all tasks.
        labelled: Its predictions with labels, from `join_labels`.
        data_root: Local mirror of the hub; by default the run's.
    """
    found = []
    for name, splits in record.results.get("single", {}).items():
        for split, values in splits.items():
            together = record.results["tasks"].get(name, {}).get(split, {})
            own = labelled.get(name, {}).get(split, "it was not evaluated")
            paired = _paired(record, name, split, own, data_root)
            metrics = record.run.tasks[name].metrics if record.run else values
            for metric in metrics:
                if metric in values and metric in together:
                    pair = together[metric], values[metric]
                    found.append(BaselineComparison(name, split, metric, *pair, paired.get(metric)))
    return found


def _paired(
    record: RunRecord, name: str, split: str, together: LabelledPredictions | str, data_root: str | None
) -> dict[str, Difference]:
    try:
        alone = read_record(record.path / BASELINES / name)
        pair = join_split(alone, name, split, data_root), together
    except UserError:
        return {}
    found = compare_predictions(alone, record, name, split, pair)
    return found if isinstance(found, dict) else {}
