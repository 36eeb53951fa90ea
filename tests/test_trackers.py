"""What of a run others read: TensorBoard's HPARAMS tab, and trackers by way of Accelerate."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from conftest import ROOT
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import backend_context, get_experiment, list_session_groups
from tensorboard.plugins.hparams.api_pb2 import GetExperimentRequest, ListSessionGroupsRequest
from test_processes import ended, run, started
from test_trainer import arguments, records, signal_at_step

from mtl.cli import main
from mtl.config import RunConfig
from mtl.run_files import read_run
from mtl.run_log import LAST, TAGS, metric_tags
from mtl.settings import Sourced, check
from mtl.trackers import TRACKERS, Trackers, hyperparameters, telemetry_problems
from mtl.trainer import Trainer

TASKS = ("mood", "strength", "answer")


class Tab:
    """What TensorBoard's HPARAMS tab shows of a folder: its own code, without a server."""

    def __init__(self, folder: Path) -> None:
        events = EventMultiplexer().AddRunsFromDirectory(str(folder))
        events.Reload()
        self.runs = set(events.Runs())
        context = backend_context.Context(TBContext(data_provider=MultiplexerDataProvider(events, str(folder))))
        wanted = GetExperimentRequest(include_metrics=True)
        experiment = get_experiment.Handler(RequestContext(), context, "", wanted).run()
        self.metrics = [info.name.tag for info in experiment.metric_infos]
        self.hparams = {info.name: info for info in experiment.hparam_infos}
        asked = ListSessionGroupsRequest(
            allowed_statuses=[1, 2, 3], start_index=0, slice_size=100, include_metrics=True
        )
        self.groups = list_session_groups.Handler(RequestContext(), context, "", asked).run().session_groups

    def values(self, session: str) -> dict[str, float]:
        (group,) = (group for group in self.groups if session in group.name)
        return {value.name.tag: value.value for value in group.metric_values}


def train(corpus: Path, encoder: Path, output: Path, *more: str) -> Path:
    assert main(arguments(corpus, encoder, output, "--max-steps", "6", "--set", "evaluation.every=3", *more)) == 0
    return output


def test_runs_compare_in_the_hparams_tab(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    first = train(corpus, encoder_dir, tmp_path / "first", "--no-smart")
    second = train(corpus, encoder_dir, tmp_path / "second", "--tasks", "mood", "--seed", "7")
    tab = Tab(tmp_path)
    assert tab.runs == {"first/tensorboard", "second/tensorboard"}
    assert sorted(session.name for group in tab.groups for session in group.sessions) == sorted(tab.runs)
    for name, folder in (("first", first), ("second", second)):
        results = json.loads((folder / "results.json").read_text())
        values = tab.values(name)
        for kind, key in (("best", "tasks"), ("eval", "last")):
            for task, splits in results[key].items():
                for tag, value in metric_tags(kind, task, "validation", splits["validation"]).items():
                    assert values[tag] == pytest.approx(value), tag
                    assert tag in tab.metrics
    # Columns of tasks that one run has alone are there, and the best values stand first, which the tab shows.
    assert tab.metrics[:5] == ["best/answer/map", "best/answer/mrr", "best/mood/accuracy", "best/mood/macro_f1",
                               "best/strength/pearson"]  # fmt: skip
    assert tab.hparams["train.seed"].differs and not tab.hparams["optimizer.name"].differs
    (group,) = (group for group in tab.groups if "first" in group.name)
    for key, setting in hyperparameters(read_run(first)).items():
        shown = group.hparams[key]
        expected = str(setting) if isinstance(setting, bool) else setting
        assert (shown.string_value if isinstance(expected, str) else shown.number_value) == expected


def test_steps_before_the_first_checkpoint_are_logged_once(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = Trainer._flush

    def dying(self: Trainer) -> None:
        flush(self)
        if self.state.step == 2:
            raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_flush", dying)
        with pytest.raises(AssertionError):
            train(corpus, encoder_dir, tmp_path / "run", "--set", "train.log_every=1")
    assert main(["train", "--output", str(tmp_path / "run"), "--resume"]) == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("learning_rate")] == [1, 2, 3, 4, 5, 6]


def test_metrics_are_the_tags_of_the_training(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    output = train(corpus, encoder_dir, tmp_path / "run")
    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    logged = set(events.Tags()["scalars"])
    dates = {path.suffix: int(path.name.split(".")[3]) for path in (output / "tensorboard").iterdir()}
    assert dates.pop(LAST) > max(dates.values()), "read last, also if all was written in one second"
    evaluations = [record for record in records(output) if record["event"] == "evaluation"]
    for record in evaluations:
        for tag, value in metric_tags("eval", record["task"], "validation", record["metrics"]).items():
            points = {event.step: event.value for event in events.Scalars(tag)}
            assert sorted(points) == [3, 6] and points[record["step"]] == pytest.approx(value)
            assert [event.step for event in events.Scalars(tag.replace("eval/", "best/"))] == [6]
    for tag in TAGS.values():
        for task in TASKS:
            assert tag.format(task=task) in logged or "dropout" in tag or "skipped" in tag, tag


@pytest.mark.parametrize("when", ["interrupted", "finished", "killed"])
def test_a_resumed_run_is_described_once(when: str, corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = arguments(corpus, encoder_dir, output)
    if when == "interrupted":
        with signal_at_step(8, signal.SIGINT):
            assert main(words) == 128 + signal.SIGINT
        assert Tab(tmp_path).groups == []
    else:
        assert main(words) == 0
        before = Tab(tmp_path).values("run")
    if when == "killed":  # between the last checkpoint and the description
        for path in (output / "tensorboard").glob("*.hparams"):
            path.unlink()
    assert main(["train", "--output", str(output), "--resume"]) == 0
    tab = Tab(tmp_path)
    assert [len(group.sessions) for group in tab.groups] == [1]
    assert len(list((output / "tensorboard").glob("*.hparams"))) == 1
    results = json.loads((output / "results.json").read_text())["tasks"]
    values = tab.values("run")
    for task in TASKS:
        for tag, value in metric_tags("best", task, "validation", results[task]["validation"]).items():
            assert values[tag] == pytest.approx(value)
    if when != "interrupted":
        assert {key: value for key, value in values.items() if key.startswith("best/")} == {
            key: value for key, value in before.items() if key.startswith("best/")
        }


def test_hyperparameters_are_those_of_the_run(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    more = ["--set", "tasks.mood.learning_rate=3e-4", "--set", "tasks.mood.smart.weight=0.0", "--no-proximal"]
    more += ["--set", "tasks.answer.batch_tokens=99"]
    found = hyperparameters(read_run(train(corpus, encoder_dir, tmp_path / "run", *more)))
    assert found["tasks.mood.learning_rate"] == 3e-4 and found["tasks.answer.learning_rate"] == 1e-3
    assert found["tasks.answer.batch_tokens"] == 99 and "tasks.answer.batch_size" not in found
    assert found["tasks.mood.smart.weight"] == 0 and "tasks.mood.smart.epsilon" not in found
    assert found["tasks.answer.smart.epsilon"] == 0.01 and found["tasks.answer.proximal.weight"] == 0
    assert found["train.max_steps"] == 6 and "train.epochs" not in found and "train.learning_rate" not in found
    assert found["optimizer.head_factor"] == 10 and found["sampling.strategy"] == "round_robin"
    assert not any(key.startswith(("telemetry", "checkpoint", "tasks.mood.data")) for key in found)
    assert all(isinstance(value, (str, bool, int, float)) for value in found.values())


# Trackers

FAKE = '''
"""Stands for a tracker: writes down what it is told."""
import json, os

class Run:
    def log(self, values, step):
        tell({"values": values, "step": step})
    def finish(self):
        tell("finish")

class Config:
    def update(self, values, allow_val_change):
        tell({"config": values})

config = Config()

def tell(what):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(what) + "\\n")

def init(project, name):
    tell({"project": project, "name": name, "rank": os.environ["RANK"]})
    return Run()
'''


@pytest.fixture
def fake(tmp_path: Path) -> dict[str, str]:
    """An environment in which a tracker is installed."""
    folder = tmp_path / "site"
    (folder / "trackio-1.0.dist-info").mkdir(parents=True)
    (folder / "trackio-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: trackio\nVersion: 1.0\n")
    (folder / "trackio.py").write_text(FAKE)
    return {"PYTHONPATH": f"{folder}:{ROOT}", "TOLD": str(tmp_path / "told.jsonl")}


def told(fake: dict[str, str]) -> list[Any]:
    return [json.loads(line) for line in Path(fake["TOLD"]).read_text().splitlines()]


def scalars(output: Path) -> set[tuple[str, int, float]]:
    """All that TensorBoard has of a run."""
    events = EventAccumulator(str(output / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {(tag, e.step, round(e.value, 5)) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}


def values_told(lines: Sequence[Any]) -> set[tuple[str, int, float]]:
    pairs = [(line["values"], line["step"]) for line in lines if "values" in line]
    return {(tag, step, round(float(np.float32(value)), 5)) for values, step in pairs for tag, value in values.items()}


TRACKED = ("--set", "telemetry.trackers=[trackio]", "--set", "telemetry.project=words")


@pytest.mark.parametrize("count", [1, 2])
def test_a_tracker_is_told_what_tensorboard_is(
    count: int, fake: dict[str, str], corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run(count, arguments(corpus, encoder_dir, output, *TRACKED), more=fake)
    lines = told(fake)
    assert lines[0] == {"project": "words", "name": output.as_posix(), "rank": "0"}
    assert lines[1] == {"config": hyperparameters(read_run(output))}
    assert [line for line in lines if line == "finish"] == ["finish"] == lines[-1:]
    assert sum("project" in line for line in lines) == 1, "the main process alone"
    assert values_told(lines) == scalars(output)
    steps = [line["step"] for line in lines if "step" in line]
    assert steps == sorted(steps), "some trackers take no step twice"
    if count == 1:  # a finished run has nothing to tell
        run(1, ["train", "--output", str(output), "--resume"], more=fake)
        assert told(fake) == lines


def test_a_tracker_ends_with_an_interrupted_run(
    fake: dict[str, str], corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    words = arguments(corpus, encoder_dir, output, *TRACKED, "--max-steps", "5000", "--set", "checkpoint.every=5")
    with started([words], more=fake) as (process,):
        while not list((output / "checkpoints").glob("step-*")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        ((status, _, error),) = ended([process])
    assert status == 128 + signal.SIGINT and "continue with" in error
    lines = told(fake)
    assert lines[-1] == "finish" and lines.count("finish") == 1
    # Trackers may be others when it goes on.
    words = ["train", "--output", str(output), "--resume", "--set", "telemetry.trackers=[]"]
    with started([words], more=fake) as (process,):
        assert isinstance(process, subprocess.Popen) and process.stdout
        while "resuming" not in (line := process.stdout.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        ended([process])
    assert told(fake) == lines


def test_what_is_not_installed_is_told_before_anything_starts(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()  # as an earlier run of it leaves one, which Python takes for a package
    words = arguments(corpus, encoder_dir, tmp_path / "run", "--set", "telemetry.trackers=[wandb, comet_ml]")
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: telemetry.trackers: wandb is not installed: pip install wandb",
        "error: telemetry.trackers: comet_ml is not installed: pip install comet_ml",
    ]
    assert not (tmp_path / "run").exists()
    assert main(["validate", str(corpus), "--set", "telemetry.trackers=[wandb]"]) == 2
    assert "pip install wandb" in capsys.readouterr().out
    assert main([*words[:-1], "telemetry.trackers=[wandbb]"]) == 2
    assert "did you mean 'wandb'?" in capsys.readouterr().err


class Told(GeneralTracker):
    """A tracker of one's own, as Accelerate's documentation has it; it takes what any other takes."""

    requires_logging_directory = False

    def __init__(self, name: str, *, fails: bool = False) -> None:
        super().__init__(_blank=True)
        self.name, self.fails, self.lines = name, fails, list[Any]()

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None:
        if self.fails:
            raise OSError("no way there")

    def log(self, values: dict[str, float], step: int | None = None, **more: Any) -> None:
        self.lines.append((values, step))

    def finish(self) -> None:
        self.lines.append("finish")
        if self.fails:
            raise OSError("no way back")


def trackers_of(run_dir: Path, *own: Told) -> Trackers:
    return Trackers(Accelerator(cpu=True, log_with=list(own)), read_run(run_dir), run_dir, resumed=False)


def test_names_that_a_tracker_does_not_take_are_changed_for_it_alone(
    corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    own = Told("mlflow"), Told("own")
    trackers = trackers_of(train(corpus, encoder_dir, tmp_path / "run", "--tasks", "mood"), *own)
    trackers.log({"eval/advice/ndcg@10": 0.5}, 3)
    trackers.finish()
    trackers.finish()
    assert own[0].lines == [({"eval/advice/ndcg-10": 0.5}, 3), "finish"]
    assert own[1].lines == [({"eval/advice/ndcg@10": 0.5}, 3), "finish"]


def test_a_tracker_that_fails_leaves_none_open(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    run_dir = train(corpus, encoder_dir, tmp_path / "run", "--tasks", "mood")
    own = Told("first"), Told("second", fails=True)
    with pytest.raises(OSError, match="no way"):
        trackers_of(run_dir, *own)
    assert own[0].lines == own[1].lines == ["finish"]


def test_every_name_is_one_of_accelerates() -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert set(TRACKERS) == set(LOGGER_TYPE_TO_CLASS) - {"tensorboard"}  # that one is ours
    config, problems = check(RunConfig, Sourced({"encoder": "e", "telemetry": {"trackers": sorted(TRACKERS)}}))
    assert problems == [] and config is not None
    assert all("pip install" in problem.message for problem in telemetry_problems(config))
