"""How tasks pull at the encoder: cosines by hand, the same whatever the number of processes, and training unaware."""

from __future__ import annotations

import copy
import signal
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_batch import examples_of
from test_mixed_steps import make_setup
from test_processes import FSDP, ended, run, started, still_encoder, train_words
from test_trainer import STRONG, arguments, records, signal_at_step
from torch import Tensor, nn

from mtl import probe
from mtl.batch import Batch, BatchStream, collate
from mtl.checkpoint import load_checkpoint
from mtl.cli import main
from mtl.config import Run, RunConfig
from mtl.drawing import WIDTH, Box, Words, width_of
from mtl.heat_map import HIGHEST, cell_text, heat_chart, shade
from mtl.model import layers
from mtl.objective import Divisors, Objective
from mtl.probe import Probe, probe_rows
from mtl.processes import Processes
from mtl.run_log import Log
from mtl.taskdef import TaskDef

__all__ = ["still_encoder"]  # a fixture
EVERY = ("--set", "telemetry.gradient_cosine_every=2")
ROWS, WIDE = 12, 5


class Tiny(nn.Module):
    """f(x) = a · mean over the tokens of E[token]: the gradient by E is known."""

    device = torch.device("cpu")

    def __init__(self, heads: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.encoder = nn.Embedding(100 * ROWS, WIDE, dtype=torch.float64)
        self.heads = dict(heads)

    def forward(self, task: str, batch: Batch) -> Tensor:
        mask = batch.attention_mask.double()[:, :, None]
        mean = (self.encoder(batch.input_ids) * mask).sum(1) / mask.sum(1)
        return (mean @ self.heads[task])[:, None]


def tiny(labels: Mapping[str, Sequence[float]], *, rows: int = ROWS, accumulation: int = 1) -> tuple[Probe, Tiny]:
    """A probe of regressions on the same texts with different labels and heads."""
    draw = np.random.default_rng(1)
    model = Tiny({name: torch.from_numpy(draw.normal(size=WIDE)) for name in labels})
    definition = {"type": "regression", "data": {"hub": "a/b", "columns": {"text_a": "x"}}, "loss": "mse"}
    tasks = {name: TaskDef.model_validate({**definition, "metrics": ["pearson"], "batch_size": 5}) for name in labels}
    sections = {"telemetry": {"gradient_cosine_every": 2, "probe_rows": rows}, "train": {"accumulation": accumulation}}
    config = RunConfig.model_validate({"encoder": "e", **sections})
    streams = {
        name: BatchStream(examples_of([3 + i % 4 for i in range(ROWS)], values), 5, 0, name, ranking=False)
        for name, values in labels.items()
    }
    objective: Any = SimpleNamespace(model=model, tasks=tasks, task_loss=partial(Objective.task_loss, None))  # type: ignore[arg-type]
    return Probe(Run(config, tasks), objective, streams, 0, Processes.current()), model


def by_hand(model: Tiny, name: str, values: Sequence[float]) -> np.ndarray[Any, Any]:
    """∇_E of mean (f(x) − y)²: row v is mean 2 (f(x) − y) · (share of v in x) · a."""
    table, head = model.encoder.weight.detach().numpy(), model.heads[name].numpy()
    gradient = np.zeros_like(table)
    for i, y in enumerate(values):
        tokens = [100 * i + j + 10 for j in range(3 + i % 4)]
        error = table[tokens].mean(0) @ head - y
        for token in tokens:
            gradient[token] += 2 * error * head / len(tokens) / len(values)
    return gradient


LABELS = {
    name: np.round(np.random.default_rng(seed).normal(size=ROWS) * 8).tolist() for seed, name in enumerate("abcde")
}


@pytest.mark.parametrize("held", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_cosines_by_hand(held: int, accumulation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "HELD", held)
    measured, model = tiny(LABELS, accumulation=accumulation)
    found = measured.measure()
    gradients = [by_hand(model, name, values).ravel() for name, values in LABELS.items()]
    norms = [float(np.linalg.norm(g)) for g in gradients]
    expected = [[float(a @ b) / (m * n) for b, n in zip(gradients, norms, strict=True)]
                for a, m in zip(gradients, norms, strict=True)]  # fmt: skip
    assert found["tasks"] == list(LABELS)
    assert found["norms"] == pytest.approx(norms, rel=1e-9)
    assert np.array(found["cosines"]) == pytest.approx(np.array(expected), rel=1e-9, abs=1e-12)


def test_tasks_that_are_one_or_each_others_contrary() -> None:
    measured, model = tiny({"a": [1.0] * ROWS, "b": [1.0] * ROWS, "c": [-1.0] * ROWS, "d": [0.0] * ROWS})
    nn.init.zeros_(model.encoder.weight)  # f = 0, so that errors are −y
    model.heads |= {"b": 3 * model.heads["a"], "c": model.heads["a"]}
    found = measured.measure()
    assert np.array(found["cosines"])[:3, :3].astype(float) == pytest.approx(
        np.array([[1, 1, -1], [1, 1, -1], [-1, -1, 1]])
    )
    assert found["cosines"][3] == [None] * 4 and found["norms"][3] == 0, "no gradient has no direction"
    assert found["norms"][1] == pytest.approx(3 * found["norms"][0])


def test_a_measurement_leaves_no_trace() -> None:
    measured, model = tiny(LABELS)
    model.train()
    model.encoder.weight.grad = torch.ones_like(model.encoder.weight)
    torch.manual_seed(5)
    before = torch.get_rng_state(), model.encoder.weight.detach().clone()
    first, second = measured.measure(), measured.measure()
    assert first == second
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.equal(model.encoder.weight, before[1])
    assert model.training and bool((model.encoder.weight.grad == 1).all())
    assert [step for step in range(1, 7) if measured.due(step)] == [2, 4, 6]


def test_rows_are_a_seeded_part() -> None:
    task = TaskDef.model_validate(
        {"type": "ranking", "data": {"hub": "a/b", "columns": {"text_a": "x"}}, "metrics": ["mrr"]}
    )
    groups = [i // 4 for i in range(40)]
    examples = examples_of([5] * 40, [float(i % 4 == 0) for i in range(40)], groups)
    one, two = (probe_rows(task, examples, 12, seed) for seed in (1, 1))
    assert one.rows.tolist() == two.rows.tolist() and len(one) == 12
    assert all((one.groups == group).sum() == 4 for group in set(one.groups.tolist())), "whole queries"
    assert len(probe_rows(task, examples, 1, 1)) == 4 and len(probe_rows(task, examples, 999, 1)) == 40
    assert len({tuple(probe_rows(task, examples, 12, seed).rows.tolist()) for seed in range(9)}) > 5


def test_micro_batches_hold_as_many_activations_as_in_training(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    """Evaluation mode keeps the activations of all layers, checkpointing those of one."""
    nothing: Any = None
    counts = []
    for settings in ((), ("train.gradient_checkpointing=true",)):
        every = "telemetry.gradient_cosine_every=1"
        setup = make_setup(corpus, encoder_dir, tmp_path, every, "defaults.batch_size=8", *settings)
        probe = setup.trainer(Log(), nothing).probe
        assert probe is not None
        counts.append(len(probe._rows["mood"][1]))
    assert counts[1] == counts[0] * len(layers(setup.objective.model.encoder)) > counts[0]


def test_gradients_of_a_transformer_are_those_of_a_backward_pass(
    corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    """Each row (ranking: query) by itself, on a copy; regularizers, weights and learning rates play no part."""
    settings = ("telemetry.gradient_cosine_every=1", "telemetry.probe_rows=20", "tasks.mood.weight=7.0")
    setup = make_setup(corpus, encoder_dir, tmp_path, *settings)
    nothing: Any = None
    found = setup.trainer(Log(), nothing).probe
    assert found is not None
    setup.objective.model.double()
    measured = found.measure()
    gradients = []
    for name, (examples, pieces) in found._rows.items():
        twin = copy.deepcopy(setup.objective)
        twin.model.eval()
        rows = np.concatenate(pieces)
        units = [rows[examples.groups[rows] == g] for g in np.unique(examples.groups[rows])]
        units = units if setup.run.tasks[name].type == "ranking" else [rows[i : i + 1] for i in range(len(rows))]
        labelled = 0.0
        for unit in units:
            batch = collate(examples, unit, setup.pad_id, setup.run.tasks[name].type)
            labelled += float(batch.weights.sum())
            twin.task_loss(twin.tasks[name], batch, twin.model(name, batch)).backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in twin.model.encoder.parameters()]
        gradients.append(torch.cat([part.flatten() for part in parts]) / labelled)
        assert Divisors.of(examples, rows, ranking=setup.run.tasks[name].type == "ranking").labelled == labelled
    matrix = torch.stack([g / g.norm() for g in gradients])
    torch.testing.assert_close(torch.tensor(measured["cosines"]).double(), matrix @ matrix.T, rtol=1e-6, atol=1e-7)
    assert measured["norms"] == pytest.approx([float(g.norm()) for g in gradients], rel=1e-9)


def test_training_is_the_same_to_the_bit(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    with_, without = tmp_path / "with", tmp_path / "without"
    options = [*STRONG, "--set", "train.accumulation=2", "--set", "defaults.smart.dropout=independent"]
    assert main(arguments(corpus, encoder_dir, without, *options)) == 0
    assert main(arguments(corpus, encoder_dir, with_, *options, *EVERY)) == 0
    final = [load_checkpoint(folder / "checkpoints" / "step-0000012") for folder in (with_, without)]
    for part, tensors in final[1].tensors.items():  # the generators too
        assert all(torch.equal(tensor, final[0].tensors[part][name]) for name, tensor in tensors.items()), part
    measured = [record for record in records(with_) if record["event"] == "gradients"]
    assert [record["step"] for record in measured] == [2, 4, 6, 8, 10, 12]
    assert [record for record in records(with_) if record["event"] != "gradients"] == records(without)
    assert (with_ / "results.json").read_text() == (without / "results.json").read_text()
    events = EventAccumulator(str(with_ / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    for record in measured:
        for i, one in enumerate(record["tasks"]):
            norms = {e.step: e.value for e in events.Scalars(f"probe_norm/{one}")}
            assert norms[record["step"]] == pytest.approx(record["norms"][i])
            assert record["cosines"][i][i] == pytest.approx(1)
            for j, other in list(enumerate(record["tasks"]))[i + 1 :]:
                points = {e.step: e.value for e in events.Scalars(f"cosine/{one}/{other}")}
                assert points[record["step"]] == pytest.approx(record["cosines"][i][j])
    images = events.Images("cosine")
    assert [image.step for image in images] == [2, 4, 6, 8, 10, 12]
    assert all(image.width == 2 * WIDTH and image.encoded_image_string.startswith(b"\x89PNG") for image in images)


def test_measurements_go_on_after_a_resume(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert main(arguments(corpus, encoder_dir, whole, *EVERY)) == 0
    with signal_at_step(8, signal.SIGINT):
        assert main(arguments(corpus, encoder_dir, parted, *EVERY)) == 128 + signal.SIGINT
    assert main(["train", "--output", str(parted), "--resume"]) == 0
    assert (whole / "metrics.jsonl").read_bytes() == (parted / "metrics.jsonl").read_bytes()
    assert "gradients" in (whole / "metrics.jsonl").read_text()
    model = "model/model.safetensors"
    first, second = load_file(whole / model), load_file(parted / model)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_one_task_has_nothing_to_compare(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(corpus, encoder_dir, tmp_path / "run", "--tasks", "mood", *EVERY)) == 0
    assert "telemetry.gradient_cosine_every has no effect" in capsys.readouterr().out
    assert not [record for record in records(tmp_path / "run") if record["event"] == "gradients"]


def test_processes_measure_the_same(corpus: Path, still_encoder: Path, tmp_path: Path) -> None:
    found = []
    for count in (1, 3):
        output = tmp_path / str(count)
        words = train_words(
            corpus, still_encoder, output, *EVERY, "--max-steps", "4", "--set", "telemetry.probe_rows=10"
        )
        run(count, words, double=True)
        found.append([record for record in records(output) if record["event"] == "gradients"])
    assert len(found[0]) == len(found[1]) == 2
    for alone, both in zip(*found, strict=True):
        assert alone["tasks"] == both["tasks"] and alone["step"] == both["step"]
        assert np.array(alone["cosines"]) == pytest.approx(np.array(both["cosines"]), rel=1e-9)
        assert alone["norms"] == pytest.approx(both["norms"], rel=1e-9)


def test_shards_are_refused(corpus: Path, still_encoder: Path, tmp_path: Path) -> None:
    words = train_words(corpus, still_encoder, tmp_path / "run", *EVERY)
    with started([words] * 2, more=FSDP) as processes:
        (status, _, error), (_, out, other) = ended(processes)
    assert status == 2 and out == other == ""
    assert (
        error == "error: telemetry.gradient_cosine_every: does not work with FSDP: no process holds a whole gradient\n"
    )
    assert not (tmp_path / "run").exists()


# The heat map


@pytest.mark.parametrize("tasks", [2, 3, 7, 9, 12])
def test_a_heat_map_has_room_for_its_texts(tasks: int) -> None:
    values: list[list[float | None]] = [[-0.88 if (i + j) % 2 else 0.08 for j in range(tasks)] for i in range(tasks)]
    chart = heat_chart("a", "b", [f"a task with a long name {i}" for i in range(tasks)], values)
    cells = [mark for mark in chart.marks if isinstance(mark, Box)]
    assert len(cells) == tasks**2 + 9 and max(mark.y + mark.height for mark in cells) <= chart.height
    assert max(mark.x + mark.width for mark in cells) <= WIDTH and cells[0].height <= HIGHEST
    inside = [
        mark for mark in chart.marks if isinstance(mark, Words) and mark.text[0] in "+−" and mark.anchor == "middle"
    ]
    assert len(inside) == (tasks * (tasks - 1) if tasks < 9 else 0)
    assert all(width_of(mark.text) <= cells[0].width for mark in inside)
    assert chart.description.count(";") == tasks * (tasks - 1) // 2 - 1


def test_shades_and_texts() -> None:
    assert [shade(value) for value in (None, 0, 0.01, -0.01)] == ["neither"] * 4
    assert [shade(value) for value in (0.05, 0.2, 0.5, 1, -0.05, -1)] == [
        "with1", "with2", "with3", "with4", "against1", "against4",
    ]  # fmt: skip
    assert [cell_text(value, wide=wide) for value in (0.5, -0.123, None) for wide in (True, False)] == [
        "+0.50", "+.50", "−0.12", "−.12", "–", "–",
    ]  # fmt: skip
    assert [cell_text(value) for value in (0.0, -0.004, 0.006)] == ["0", "0", "+0.01"]


def test_the_pictures_have_the_colours_of_the_page() -> None:
    from mtl.pictures import STYLES

    css = (Path(probe.__file__).parent / "report.css").read_text()
    for style in [f"{side}{n}" for side in ("with", "against") for n in range(1, 5)] + ["neither", "same"]:
        assert f".fill.{style} {{" in css and style in STYLES
    for side, colour in (("with", "--hit: "), ("against", "--miss: ")):
        full = np.array([int(css.split(colour)[1][1 + i : 3 + i], 16) for i in (0, 2, 4)])
        for n in range(1, 5):
            share = int(css.split(f".fill.{side}{n} {{ fill: color-mix(in srgb, var({colour[:-2]}) ")[1].split("%")[0])
            mixed = np.rint(255 + (full - 255) * share / 100).astype(int)
            assert STYLES[f"{side}{n}"][0] == "#" + "".join(f"{part:02x}" for part in mixed)
