"""Training rate without regularizers, compared with `transformers.Trainer` and
`sentence_transformers.CrossEncoderTrainer`.

    python -m benchmarks.peers

The rate is in tokens of text, without padding, per second of the training loop: on MRPC for `Trainer`, on WikiQA for
`CrossEncoderTrainer`, and on generated pairs if there is no mirror. All train the same encoder on the same rows in
float32 with 32 rows per step, without evaluation, checkpoints or logs. A repetition is one pass over the rows, of which
the first steps are not timed.

The toolkit's ranking loss is a softmax over a query's list. The closest one of the peer is `ListNetLoss`, which also
has a softmax over the labels; its batches have as many queries as give about 32 pairs. By default it passes as many
pairs at a time as the batch has queries, with `mini_batch_size=-1` all at once. `BinaryCrossEntropyLoss` is the default
of `CrossEncoderTrainer` and scores each pair separately.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import sentence_transformers.cross_encoder as cross_encoder
import torch
import transformers
from torch import nn

from benchmarks.steps import make_trainer as ours
from benchmarks.timing import Spread, parser, ratios, store, take_turns
from mtl.encoder import find_encoder
from mtl.native_head import quiet_transformers
from mtl.report import table
from mtl.stop import StopSignal
from mtl.tokenizer import load_config, load_tokenizer, usable_length
from mtl.trainer import Hooks

BATCH, MAX_LENGTH, RATE = 32, 128, 5e-5
UNTIMED = 2  # steps that are not timed, because memory is allocated in them
SETTINGS = (
    *("train.epochs=1", "train.smart=false", "train.proximal=false"),
    *(f"train.batch_size={BATCH}", f"train.max_length={MAX_LENGTH}", f"train.learning_rate={RATE}"),
)
OURS = "ours"
BEST, DEFAULT = 1.0, 1.3
PROMISES = {
    "Trainer, defaults": DEFAULT,
    "Trainer, group_by_length": BEST,
    "CrossEncoderTrainer, ListNet, defaults": DEFAULT,
    "CrossEncoderTrainer, ListNet, all at once": BEST,
    "CrossEncoderTrainer, binary cross-entropy": BEST,
}
Rows = list[dict[str, Any]]


class Clock(transformers.TrainerCallback):
    """Measures seconds and real tokens of a loop, except for its first steps; a callback of the peers' trainers.

    Args:
        model: The module whose input tokens are counted.
        steps: Number of steps of the loop.
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.steps, self.tokens, self.started, self.seconds = steps, 0, 0.0, 0.0
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: nn.Module, inputs: Any, options: dict[str, Any]) -> None:
        self.tokens += int(options["attention_mask"].sum())

    def done(self, step: int) -> None:
        """Called at the end of each step, numbered from 1."""
        if step == UNTIMED:
            self.tokens, self.started = 0, time.perf_counter()
        elif step == self.steps:
            self.seconds = time.perf_counter() - self.started

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        self.done(state.global_step)

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


class Timed(Hooks):
    """Hooks of the toolkit's trainer that report steps to a clock and do nothing else."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def progress(self, step: int, task: str) -> None:
        self.clock.done(step)


def read_rows(kind: str, data_root: Path, count: int) -> Rows:
    """Pairs with a binary label and a query id; in rankings every query has a relevant candidate."""
    ranking = kind == "ranking"
    folder = data_root / ("microsoft/wiki_qa/default" if ranking else "nyu-mll/glue/mrpc")
    if not folder.is_dir():
        return _generated(count)
    names = ("question", "answer", "question_id") if ranking else ("sentence1", "sentence2", "idx")
    found = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [
        {"a": row[names[0]], "b": row[names[1]], "label": row["label"], "group": str(row.get(names[2]))}
        for row in found
    ]
    if not ranking:
        return rows[:count]
    lists = [rows for rows in _by_query(rows) if len(rows) <= BATCH and any(row["label"] for row in rows)]
    return [row for rows in lists for row in rows][:count]


def _generated(count: int) -> Rows:
    draw, words = random.Random(0), "the a film was not very good and we found it in an old house of hers".split()

    def text() -> str:
        return " ".join(draw.choices(words, k=draw.randint(4, 40)))

    return [{"a": text(), "b": text(), "label": row % 2, "group": str(row // 8)} for row in range(count)]


def _by_query(rows: Rows) -> list[Rows]:
    queries: dict[str, Rows] = {}
    for row in rows:
        queries.setdefault(row["group"], []).append(row)
    return list(queries.values())


def make_ours(kind: str, rows: Rows, encoder: str, folder: Path) -> tuple[Callable[[], Clock], int]:
    """One pass of the toolkit, and its number of steps."""
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = {"text_a": "a", "text_b": "b", "label": "label"} | ({"group": "group"} if kind == "ranking" else {})
    data = {"files": {split: f"{split}.jsonl" for split in ("train", "validation")}, "columns": columns}
    task = {"type": kind, "data": data} | ({"labels": ["no", "yes"]} if kind == "classification" else {})
    (folder / "tasks.yml").write_text(json.dumps({kind: task}), encoding="utf-8")
    make = partial(ours, encoder, None, SETTINGS, definitions=folder / "tasks.yml")

    def train() -> Clock:
        trainer = make()
        clock = Clock(trainer.student.encoder, trainer.plan.steps)
        trainer.hooks = Timed(clock)
        trainer.fit(StopSignal())
        return clock

    return train, make().plan.steps


def make_trainer(rows: Rows, encoder: str, folder: Path, steps: int, **options: Any) -> Callable[[], Clock]:
    """One pass of `transformers.Trainer`, which pads each batch to its longest row."""
    tokenizer = load_tokenizer(encoder)
    encoded = tokenizer(
        [row["a"] for row in rows], [row["b"] for row in rows], truncation=True, max_length=_limit(encoder)
    )
    columns = {
        **encoded,
        "labels": [row["label"] for row in rows],
        "length": [len(ids) for ids in encoded["input_ids"]],
    }
    with quiet_transformers():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    clock = Clock(model.base_model, steps)
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**_quiet(folder, steps), per_device_train_batch_size=BATCH, **options),
        train_dataset=datasets.Dataset.from_dict(columns),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        callbacks=[clock],
    )
    return partial(_trained, trainer, clock)


def make_cross_encoder(
    rows: Rows, encoder: str, folder: Path, steps: int, *, lists: bool, **options: Any
) -> Callable[[], Clock]:
    """One pass of `CrossEncoderTrainer`, over queries with lists or over pairs; `options` are for `ListNetLoss`."""
    with quiet_transformers():
        model = cross_encoder.CrossEncoder(encoder, num_labels=1, max_length=_limit(encoder), device="cpu")
    queries = _by_query(rows)
    if lists:
        columns: dict[str, Any] = {"query": [own[0]["a"] for own in queries]}
        columns |= {"docs": [[row["b"] for row in own] for own in queries]}
        columns |= {"labels": [[row["label"] for row in own] for own in queries]}
        loss: nn.Module = cross_encoder.losses.ListNetLoss(model, **options)
        size = max(1, round(BATCH * len(queries) / len(rows)))
    else:
        columns = {"query": [row["a"] for row in rows], "document": [row["b"] for row in rows]}
        columns |= {"label": [float(row["label"]) for row in rows]}
        loss, size = cross_encoder.losses.BinaryCrossEntropyLoss(model), BATCH
    steps = min(steps, -(-len(columns["query"]) // size))
    arguments = cross_encoder.CrossEncoderTrainingArguments(**_quiet(folder, steps), per_device_train_batch_size=size)
    clock = Clock(model[0].auto_model.base_model, steps)
    trainer = cross_encoder.CrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(columns),
        loss=loss,
        callbacks=[clock],
    )
    return partial(_trained, trainer, clock)


def _limit(encoder: str) -> int:
    return min(MAX_LENGTH, usable_length(load_tokenizer(encoder), load_config(encoder)))


def _quiet(folder: Path, steps: int) -> dict[str, Any]:
    """Arguments that switch off everything but training."""
    off = {"save_strategy": "no", "eval_strategy": "no", "logging_strategy": "no", "report_to": "none"}
    where = {"output_dir": str(folder / "peer"), "disable_tqdm": True, "use_cpu": True}
    return {**off, **where, "max_steps": steps, "learning_rate": RATE}


def _trained(trainer: Any, clock: Clock) -> Clock:
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return clock


def measure(kind: str, encoder: str, data_root: Path, count: int, repetitions: int) -> dict[str, list[float]]:
    """Tokens per second of the toolkit and its peers, for each repetition."""
    rows = read_rows(kind, data_root, count)
    with tempfile.TemporaryDirectory() as name:
        os.environ["MTL_CACHE"] = f"{name}/cache"
        folder = Path(name)
        ours, steps = make_ours(kind, rows, encoder, folder)
        candidates = {OURS: ours}
        if kind == "classification":
            make = partial(make_trainer, rows, encoder, folder, steps)
            candidates["Trainer, defaults"] = make()
            candidates["Trainer, group_by_length"] = make(
                train_sampling_strategy="group_by_length", optim="adamw_torch_fused"
            )
        else:
            peer = partial(make_cross_encoder, rows, encoder, folder, steps)
            candidates["CrossEncoderTrainer, ListNet, defaults"] = peer(lists=True)
            candidates["CrossEncoderTrainer, ListNet, all at once"] = peer(lists=True, mini_batch_size=-1)
            candidates["CrossEncoderTrainer, binary cross-entropy"] = peer(lists=False)
        rates: dict[str, list[float]] = {name: [] for name in candidates}

        def timed(name: str) -> None:
            rates[name].append(candidates[name]().rate)

        take_turns({name: partial(timed, name) for name in candidates}, repetitions)
    return {name: values[1:] for name, values in rates.items()}  # the first of each was the warm-up


def main() -> None:
    """Command line."""
    made = parser("peers", __doc__)
    made.add_argument("--data-root", default="../shared/data", type=Path, metavar="DIR", help="mirror of the hub")
    made.add_argument("--rows", default=20 * BATCH, type=int, metavar="N", help="rows per pass")
    options = made.parse_args()
    datasets.disable_progress_bars()
    encoder = find_encoder(options.encoder)
    lines, figures = [], {}
    for kind in ("classification", "ranking"):
        torch.manual_seed(0)
        rates = measure(kind, encoder, options.data_root, options.rows, options.repetitions)
        over = {name: ratios(rates, OURS, name) for name in rates}
        figures[kind] = {"rates": rates, "over": over}
        lines += [
            (kind, name, Spread.of(values), *(("", "") if name == OURS else (over[name], PROMISES[name])))
            for name, values in rates.items()
        ]
    print(table(("task", "trainer", "tokens/s", "ours / it", "target: at least"), lines))
    store(options.output, {"figures": figures})


if __name__ == "__main__":
    main()
