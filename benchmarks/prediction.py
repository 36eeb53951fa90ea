"""Rate of prediction against `transformers.pipeline`, and what a second task over the same input costs.

    python -m benchmarks.prediction

Both read the same texts with the same exported model. Ours is timed from a file of rows to a file of predictions,
nothing cached; the pipeline from a list of texts to a list of predictions, with the batch size of 32.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline

from benchmarks.timing import Spread, parser, ratios, store, take_turns
from mtl.batch import collate
from mtl.data import load_tokenizer, prepare
from mtl.encoder import find_encoder
from mtl.evaluate import evaluation_batches, prediction_records, write_predictions
from mtl.export import Loaded, save_export, task_of
from mtl.inference import BATCH_SIZE, KnownBase, outputs_of
from mtl.model import build_model
from mtl.report import table
from mtl.source import Source
from mtl.taskdef import TaskDef

RATE, SECOND = 2.5, 0.03
SETS = {"sst2": ("sentence", None), "mrpc": ("sentence1", "sentence2")}


def make_tasks(text_a: str, text_b: str | None) -> dict[str, TaskDef]:
    """Two tasks that read the same columns."""
    columns = {"text_a": text_a} | ({"text_b": text_b} if text_b else {})
    data = {"hub": "of/none", "columns": columns}
    binary = {"type": "classification", "labels": ["no", "yes"], "data": data, "max_length": 128}
    return {
        "first": TaskDef.model_validate(binary),
        "second": TaskDef.model_validate({**binary, "type": "regression", "labels": []}),
    }


def measure(
    encoder: str, file: Path, columns: tuple[str, str | None], folder: Path, repetitions: int
) -> dict[str, Any]:
    """Seconds of each way to predict the rows of a file."""
    tasks = make_tasks(*columns)
    model, tokenizer = build_model(encoder, tasks, seed=0).eval(), load_tokenizer(encoder)
    loaded = {name: task_of(model, name, task, tokenizer) for name, task in tasks.items()}
    save_export(loaded["first"], "first", folder / "export", {}, verify=False)
    classify = pipeline("text-classification", model=str(folder / "export"), device=-1)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    text_a, text_b = columns
    texts: list[Any] = [{"text": r[text_a], "text_pair": r[text_b]} if text_b else r[text_a] for r in rows]

    def ours(*names: str) -> None:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        items: list[Loaded] = [loaded[name] for name in names]
        first = items[0]
        examples = prepare("first", first.task, Source(path=file), first.tokenizer, first.limit, labelled=False)
        for name, item, outputs in zip(names, items, outputs_of(items, examples), strict=True):
            write_predictions(folder / f"{name}.jsonl", prediction_records(item.task, outputs, examples))

    def theirs() -> None:
        found = classify(texts, batch_size=32, truncation=True, max_length=loaded["first"].limit)
        assert len(found) == len(texts)

    runs: dict[str, Callable[[], None]] = {
        "ours": lambda: ours("first"),
        "pipeline": theirs,
    }
    return {"seconds": take_turns(runs, repetitions), "second task": second_task(loaded, file, repetitions)}


def second_task(loaded: dict[str, Loaded], file: Path, repetitions: int) -> dict[str, float]:
    """Seconds, least of all repetitions, over some batches: of encoder and first head, and of the second head alone.

    A difference of two long times would drown in their noise: the second head is timed by itself, on what the encoder
    gave out.
    """
    first, second = loaded["first"], loaded["second"]
    examples = prepare("first", first.task, Source(path=file), first.tokenizer, first.limit, labelled=False)
    totals = {"first": 0.0, "second": 0.0}
    base, prefix = first.model.base_model, second.model.base_model_prefix

    for chosen in evaluation_batches(examples.lengths, BATCH_SIZE)[:4]:
        batch = collate(examples, chosen, first.tokenizer.pad_token_id, "regression")
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.token_type_ids is not None:
            inputs["token_type_ids"] = batch.token_type_ids
        with torch.inference_mode():
            known = KnownBase(base)
            known.output = base(**inputs)

            def head(inputs: dict[str, Any] = inputs) -> None:
                second.model(**inputs)

            def whole(inputs: dict[str, Any] = inputs) -> None:
                first.model(**inputs)

            totals["first"] += min(take_turns({"t": whole}, repetitions)["t"])
            setattr(second.model, prefix, known)
            totals["second"] += min(take_turns({"t": head}, repetitions)["t"])
            setattr(second.model, prefix, base)
    return totals


def main() -> None:
    """Command line."""
    made = parser("prediction", __doc__)
    made.add_argument("--data-root", default="../shared/data", metavar="DIR", help="mirror of the hub")
    options = made.parse_args()
    encoder = find_encoder(options.encoder)
    figures: dict[str, Any] = {}
    rows = []
    for name, columns in SETS.items():
        file = Path(options.data_root).resolve() / "nyu-mll" / "glue" / name / "validation.jsonl"
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MTL_CACHE"] = f"{folder}/cache"
            found = measure(encoder, file, columns, Path(folder), options.repetitions)
        seconds, heads = found["seconds"], found["second task"]
        times = ratios(seconds, "pipeline", "ours")
        share = heads["second"] / heads["first"]
        figures[name] = {"seconds": seconds, "rate": times, "second_task": share}
        rows.append((name, Spread.of(seconds["ours"]), Spread.of(seconds["pipeline"]), times, f"{share:.2%}"))
    print(table(("set", "ours in s", "pipeline in s", "times its rate", "second task over first"), rows))
    print(f"promised: at least {RATE} times its rate; a second task below {SECOND:.0%}")
    store(options.output, {"figures": figures})


if __name__ == "__main__":
    main()
