"""Prediction rate compared with `transformers.pipeline`, and the cost of a second task on the same input.

    python -m benchmarks.prediction

Both predict the same texts with the same exported model, which is already loaded. `predict` is timed from a file of
rows to a file of predictions, without a cache; the pipeline, with batches of 32, from a list of texts to a list of
predictions. "Model alone" is, for `predict`, the loop over tokenised rows, including batching and padding, and for the
pipeline, the time spent in its model. Texts are from GLUE's validation sets, or from the quickstart corpus if there is
no mirror.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import pipeline

from benchmarks.timing import Spread, parser, ratios, store, take_turns
from data_prep import quickstart
from mtl.batch import collate, evaluation_batches
from mtl.data import Examples, prepare
from mtl.encoder import find_encoder
from mtl.evaluate import BATCH_TOKENS
from mtl.export import Loaded, save_export, task_of
from mtl.facts import Facts
from mtl.inference import KnownBase, outputs_of, predict_file
from mtl.model import build_model
from mtl.precision import best_device
from mtl.report import table
from mtl.source import Source
from mtl.taskdef import TaskDef
from mtl.tokenizer import load_tokenizer

RATE, SECOND = 2.5, 0.03
BATCH = 32  # batch size of the pipeline
Columns = tuple[str, "str | None"]
MIRRORED: dict[str, Columns] = {"sst2": ("sentence", None), "mrpc": ("sentence1", "sentence2")}
GENERATED: dict[str, Columns] = {"intent": ("message", None), "paraphrase": ("sentence1", "sentence2")}
# Comparisons: precision of `predict`, and the variant of the pipeline.
PAIRS = (("fp32", "pipeline"), ("bf16", "pipeline"), ("bf16", "pipeline, bf16"))


class Watch:
    """Measures the seconds spent in a module, wherever it is called.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.seconds, self._started = 0.0, 0.0
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self._started = time.perf_counter()

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.seconds += time.perf_counter() - self._started

    def taken(self) -> float:
        """The seconds spent since the last call of this method."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def find_sets(data_root: Path, folder: Path) -> dict[str, tuple[Path, Columns]]:
    """Files of rows and their columns: from the mirror, or else generated in `folder`."""
    glue = data_root.resolve() / "nyu-mll" / "glue"
    if all((glue / name / "validation.jsonl").is_file() for name in MIRRORED):
        return {name: (glue / name / "validation.jsonl", columns) for name, columns in MIRRORED.items()}
    quickstart.write(quickstart.generate(), folder)
    return {name: (folder / name / "validation.jsonl", columns) for name, columns in GENERATED.items()}


def make_tasks(text_a: str, text_b: str | None) -> dict[str, TaskDef]:
    """Two tasks that read the same columns."""
    columns = {"text_a": text_a} | ({"text_b": text_b} if text_b else {})
    data = {"hub": "of/none", "columns": columns}
    binary = {"type": "classification", "labels": ["no", "yes"], "data": data, "max_length": 128}
    return {
        "first": TaskDef.model_validate(binary),
        "second": TaskDef.model_validate({**binary, "type": "regression", "labels": []}),
    }


def measure(encoder: str, file: Path, columns: Columns, folder: Path, repetitions: int) -> dict[str, Any]:
    """Seconds of each way to predict the rows of a file, in all and in the model alone, and of the heads."""
    tasks = make_tasks(*columns)
    model, tokenizer = build_model(encoder, tasks, seed=0).eval(), load_tokenizer(encoder)
    loaded = {name: task_of(model, name, task, tokenizer) for name, task in tasks.items()}
    first = loaded["first"]
    save_export(first, "first", folder / "export", Facts(), verify=False)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    text_a, text_b = columns
    texts: list[Any] = [{"text": r[text_a], "text_pair": r[text_b]} if text_b else r[text_a] for r in rows]
    examples = prepare("first", first.task, Source(path=file), first.tokenizer, first.limit, labelled=False)
    alone: dict[str, list[float]] = {}

    def ours(precision: Any, names: tuple[str, ...]) -> None:
        count = predict_file({name: loaded[name] for name in names}, file, folder / "predictions.jsonl", precision)
        assert count == len(texts)

    def loop(precision: Any) -> None:
        outputs_of([first], examples, precision)

    def theirs(name: str, classify: Any, watch: Watch) -> None:
        found = classify(texts, batch_size=BATCH, truncation=True, max_length=first.limit)
        assert len(found) == len(texts)
        alone.setdefault(name, []).append(watch.taken())

    runs: dict[str, Callable[[], None]] = {"fp32, two tasks": partial(ours, "fp32", ("first", "second"))}
    runs |= {precision: partial(ours, precision, ("first",)) for precision in ("fp32", "bf16")}
    loops = {precision: partial(loop, precision) for precision in ("fp32", "bf16")}
    for name, options in (("pipeline", {}), ("pipeline, bf16", {"dtype": torch.bfloat16})):
        made = pipeline("text-classification", model=str(folder / "export"), device=best_device(), **options)
        runs[name] = partial(theirs, name, made, Watch(made.model))
    seconds = take_turns({**runs, **{f"loop, {name}": run for name, run in loops.items()}}, repetitions)
    alone = {name: values[1:] for name, values in alone.items()}  # the first of each was the warm-up
    alone |= {name: seconds.pop(f"loop, {name}") for name in loops}
    return {"seconds": seconds, "model_alone": alone, "heads": heads(loaded, examples, repetitions)}


def heads(loaded: dict[str, Loaded], examples: Examples, repetitions: int) -> dict[str, float]:
    """Seconds for some batches, minimum over repetitions: encoder with first head, and the second head alone.

    The second head is timed separately, on precomputed outputs of the encoder, because a difference of two long times
    would be lost in their noise.
    """
    first, second = loaded["first"], loaded["second"]
    totals = {"first": 0.0, "second": 0.0}
    base, prefix = first.model.base_model, second.model.base_model_prefix
    for chosen in evaluation_batches(examples.lengths, BATCH_TOKENS["cpu"])[:4]:
        batch = collate(examples, chosen, first.tokenizer.pad_token_id, "regression").to(best_device())
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.token_type_ids is not None:
            inputs["token_type_ids"] = batch.token_type_ids
        with torch.inference_mode():
            known = KnownBase(base)
            known.output = base(**inputs)
            totals["first"] += min(take_turns({"t": partial(first.model, **inputs)}, repetitions)["t"])
            setattr(second.model, prefix, known)
            totals["second"] += min(take_turns({"t": partial(second.model, **inputs)}, repetitions)["t"])
            setattr(second.model, prefix, base)
    return totals


def main() -> None:
    """Command line."""
    made = parser("prediction", __doc__)
    made.add_argument("--data-root", default="../shared/data", type=Path, metavar="DIR", help="mirror of the hub")
    options = made.parse_args()
    encoder = find_encoder(options.encoder)
    figures: dict[str, Any] = {}
    rates, seconds, second_task = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MTL_CACHE"] = str(folder / "cache")
        for name, (file, columns) in find_sets(options.data_root, folder / "corpus").items():
            found = measure(encoder, file, columns, folder / name, options.repetitions)
            whole, alone, own = found["seconds"], found["model_alone"], found["heads"]
            rate = {f"{a} over {b}": (ratios(whole, b, a), ratios(alone, b, a)) for a, b in PAIRS}
            both = ratios(whole, "fp32, two tasks", "fp32")
            rates += [(name, pair, *spreads) for pair, spreads in rate.items()]
            seconds += [(name, run, Spread.of(values)) for run, values in whole.items()]
            second_task.append((name, both, f"{own['second'] / own['first']:.2%}"))
            figures[name] = {**found, "rate": {pair: spreads[0] for pair, spreads in rate.items()}}
            figures[name] |= {"rate_alone": {pair: spreads[1] for pair, spreads in rate.items()}}
            figures[name] |= {"two_tasks": both, "second_head": own["second"] / own["first"]}
    print(table(("set", "run", "seconds"), seconds))
    print(table(("set", "times the rate", "predict", "model alone"), rates))
    print(table(("set", "two tasks / one", "second head / encoder and first"), second_task))
    print(f"target: at least {RATE} times the pipeline's rate; a second task below {SECOND:.0%}")
    store(options.output, {"figures": figures})


if __name__ == "__main__":
    main()
