"""The cost of a study, computed from its plans before anything runs.

The unit is one token of plain training, that is, a forward and a backward pass. A token of regularized training counts
by its forward-pass equivalents (`cost.relative_cost`); an evaluated token, one forward pass, counts a third.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtl.cost import PLAIN, mean_relative_cost
from mtl.encoder import find_encoder
from mtl.errors import counted
from mtl.ledger import Ledger
from mtl.outcomes import cells_of, gather_outcomes, outcome_key, read_outcomes
from mtl.plan import make_plan
from mtl.preflight import Checked
from mtl.reading import check_data
from mtl.report import table
from mtl.run_setup import longest_input, make_streams, prepare_splits
from mtl.study import Cell, Study, StudyRun, read_study
from mtl.tokenizer import load_tokenizer

RATES = (1_000, 3_000, 30_000)  # tokens of plain training per second, for which durations are printed


@dataclass(frozen=True)
class Cost:
    """Cost of some runs.

    Attributes:
        runs: Number of runs.
        steps: Optimizer steps.
        tokens: Training tokens.
        plain: Cost of training and evaluation, in tokens of plain training.
    """

    runs: int = 0
    steps: int = 0
    tokens: int = 0
    plain: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.runs + other.runs, self.steps + other.steps, self.tokens + other.tokens, self.plain + other.plain
        )

    def __mul__(self, factor: int) -> Cost:
        return Cost(self.runs * factor, self.steps * factor, self.tokens * factor, self.plain * factor)


def study_costs(study: Study, cells: Sequence[Cell], to_do: Callable[[StudyRun], list[StudyRun]]) -> dict[str, Cost]:
    """Cost of each arm's own runs and, as `shared`, of the runs that several cells start from.

    Only the runs of the first seed are planned; their cost is multiplied by the number of seeds that need such a run.

    Args:
        study: The study.
        cells: Those of its cells that are counted.
        to_do: The runs that a cell needs, of its own run's chain.
    """
    owned = {cell.node.fingerprint: cell.arm for cell in reversed(study.cells)}
    first, *_ = study.config.seeds
    planned = {(cell.arm, cell.task, cell.size): cell.node for cell in study.cells if cell.seed == first}
    used_by: dict[str, set[int]] = {}  # run of the first seed -> seeds that need such a run
    for cell in cells:
        needed = {node.fingerprint for node in to_do(cell.node)}
        for own, like in zip(cell.node.chain(), planned[cell.arm, cell.task, cell.size].chain(), strict=True):
            if own.fingerprint in needed:
                used_by.setdefault(like.fingerprint, set()).add(cell.seed)
    costs: dict[str, Cost] = {}
    for node in study.nodes:
        if number := len(used_by.get(node.fingerprint, ())):
            arm = owned.get(node.fingerprint, "shared")
            costs[arm] = costs.get(arm, Cost()) + _cost(node) * number
    return costs


def _cost(node: StudyRun) -> Cost:
    run = node.run
    encoder = find_encoder(node.chain()[0].run.config.encoder)
    search, held_out = run.config.leaks != "ignore", run.config.train.holdout is not None
    data = check_data(run.tasks, run.config.data_root, search=search, held_out=held_out)
    checked = Checked(run, encoder, data)
    tokenizer = load_tokenizer(encoder, trust_remote_code=run.config.trust_remote_code)
    splits = prepare_splits(checked, tokenizer, longest_input(checked, tokenizer))
    plan = make_plan(run, make_streams(run, splits))
    plain = sum(task.tokens * mean_relative_cost(run.as_trained(task.task)) for task in plan.tasks)
    evaluations = math.ceil(plan.steps / plan.evaluate_every)
    evaluated = sum(int(p.lengths.sum()) for parts in splits.values() for s, p in parts.items() if s != "train")
    tokens = sum(task.tokens for task in plan.tasks)
    return Cost(1, plan.steps, tokens, plain + evaluations * evaluated / PLAIN)


def cost_text(
    path: Path, *, output: Path | None, data_root: str | None, arms: Sequence[str], summary: Path | None
) -> str:
    """The cost of a study's unfinished cells as a printable table; for the arguments, see `compare.compare`."""
    study = read_study(path, data_root)
    wanted = cells_of(study, arms)
    ledger = Ledger((output or Path("runs") / study.name).resolve())
    finished = gather_outcomes(study, ledger, read_outcomes(summary, study) if summary else {})
    cells = [cell for cell in wanted if outcome_key(cell) not in finished]
    costs = study_costs(study, cells, ledger.to_do)
    rows = [(arm, f"{c.runs:,}", f"{c.steps:,}", f"{c.tokens:,}", f"{round(c.plain):,}") for arm, c in costs.items()]
    total = sum(costs.values(), Cost())
    rows.append(("all", f"{total.runs:,}", f"{total.steps:,}", f"{total.tokens:,}", f"{round(total.plain):,}"))
    hours = ", ".join(f"{total.plain / rate / 3600:.1f} h at {rate:,} plain tokens a second" for rate in RATES)
    runs = counted(total.runs, "run")
    return "\n".join(
        [
            table(("arm", "runs", "steps", "tokens", "as plain tokens"), rows),
            f"{len(cells):,} of {counted(len(wanted), 'cell')} to do, in {runs}: {hours}; and the time to start each",
        ]
    )
