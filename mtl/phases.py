"""The two phases, `train` and `adapt`: from a checked request to a finished run directory."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tqdm import tqdm
from transformers import AutoConfig

from mtl.batch import BatchStream
from mtl.checkpoint import Checkpoint, load_newest, save_checkpoint, write_file
from mtl.config import Run, dump_tasks, dump_yaml
from mtl.data import Examples, few_shot, load_tokenizer, prepare, usable_length, without_leaks
from mtl.errors import Interrupted, Problem, UserError, counted
from mtl.evaluate import Outputs, counts, prediction_records, score, score_baseline, split_outputs, write_predictions
from mtl.export import save_export, save_model, task_of
from mtl.model import MultiTaskModel, build_model, load_model
from mtl.objective import Objective
from mtl.precision import erased_perturbations
from mtl.preflight import RUN_FILE, TASKS_FILE, Checked, read_run
from mtl.report import evaluation_line, plan_table, results_table
from mtl.runlog import RunLog
from mtl.trainer import Plan, StopSignal, Trainer, TrainState, make_plan

RESULTS_FILE = "results.json"
INDIFFERENT = ("num_proc",)  # settings that a resumed run may change
RECORDED_PACKAGES = (
    "mtl-toolkit",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "scikit-learn",
)

Say = Callable[[str], None]
Splits = Mapping[str, Mapping[str, Examples]]


def run_phase(checked: Checked, output: Path, *, resume: bool, command: list[str], say: Say = print) -> dict[str, Any]:
    """Trains (or continues) a run and finishes its directory.

    Args:
        checked: The run, as `preflight` left it.
        output: Its directory.
        resume: Whether to continue from its newest checkpoint.
        command: The command line, for the record.
        say: Where lines for people go.

    Returns:
        What `results.json` holds.
    """
    run = checked.run
    for line in data_notes(checked):
        say(line)
    accelerator = make_accelerator(run)
    tokenizer = load_tokenizer(checked.encoder, trust_remote_code=run.config.trust_remote_code)
    splits = prepare_splits(checked, tokenizer)
    streams = {
        name: BatchStream(
            splits[name]["train"], task.batch_size, run.config.train.seed, name, ranking=task.type == "ranking"
        )
        for name, task in run.tasks.items()
    }
    plan = make_plan(run, streams)
    say(plan_table(plan.rows, plan.steps, plan.epoch_steps))
    for line in remarks(run, splits):
        say(f"note: {line}")
    torch.manual_seed(run.config.train.seed)
    model = make_model(checked)
    objective = Objective(model, {name: run.regularized(name) for name in run.tasks}, run.config.train.seed)
    model.to(accelerator.device)
    if erased := erased_perturbations(objective, streams, tokenizer.pad_token_id, accelerator):
        raise UserError(erased)

    start_directory(run, checked, splits, output, resume=resume, command=command)
    checkpoint, damaged = load_newest(output / "checkpoints") if resume else (None, [])
    for line in damaged:
        say(f"warning: passed over a damaged checkpoint: {line}")
    if resume:
        say(
            f"resuming after step {checkpoint.step:,}"
            if checkpoint
            else "no checkpoint yet: starting from the first step"
        )
    state = checkpoint.state if checkpoint else {"log_position": 0, "step": 0}
    log = RunLog(output, position=state["log_position"], step=state["step"])
    hooks = RunHooks(run, model, tokenizer, splits, plan, output, say)
    trainer = Trainer(run, objective, streams, plan, tokenizer.pad_token_id, accelerator, log, hooks)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    try:
        with hooks.bar(trainer.state.step), StopSignal().installed() as stop:
            trainer.fit(stop)
    except Interrupted as error:
        raise Interrupted(error.signal_number, f"{error}; continue with:\n  {resume_command(command)}") from None
    finally:
        log.close()
    save_model(model, tokenizer, output / "model")
    if objective.teacher is not None:
        save_model(objective.teacher, tokenizer, output / "teacher")
    results = hooks.store_results(trainer.state, finished=True)
    say(results_table(results, run.tasks, output))
    return results


def make_accelerator(run: Run) -> Accelerator:
    """The device and precision of a run.

    Raises:
        UserError: The device cannot compute in the precision asked for, or several processes were launched.
    """
    precision = run.config.train.precision
    AcceleratorState._reset_state()  # it is one for the process, and an earlier run may have had another precision
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
    if accelerator.num_processes > 1:
        raise UserError.of("launch", "several processes are not supported yet; start one")
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError.of("--precision", "fp16 needs a GPU; bf16 works on the CPU")
    return accelerator


def prepare_splits(checked: Checked, tokenizer: Any) -> dict[str, dict[str, Examples]]:
    """Tokenised splits of every task; training data cut to the size asked for."""
    run = checked.run
    config = AutoConfig.from_pretrained(checked.encoder, trust_remote_code=run.config.trust_remote_code)
    limit = usable_length(tokenizer, config)
    splits: dict[str, dict[str, Examples]] = {}
    for name, task in run.tasks.items():
        splits[name] = {
            split: prepare(
                name,
                task,
                source,
                tokenizer,
                min(task.max_length, limit),
                num_proc=run.config.num_proc,
                rows=checked.data.summaries[name][split].rows,
            )
            for split, source in checked.data.sources[name].items()
        }
        train, examples = run.config.train, splits[name]["train"]
        if run.config.leaks == "drop":
            examples = without_leaks(task, examples, checked.data.leaks.leaked[f"{name}/train"])
            if len(examples) == 0:
                raise UserError.of("--leaks drop", f"leaves {name} no training rows: all stand in evaluation rows")
        splits[name]["train"] = few_shot(task, examples, train.train_size, train.train_fraction, train.seed)
    return splits


def data_notes(checked: Checked) -> list[str]:
    """What was found of the data before it was tokenised."""
    lines = [f"note: {note}" for note in checked.data.notes]
    warn = checked.run.config.leaks == "warn"
    leaks = [f"{'warning' if warn else 'note'}: {leak}" for leak in checked.data.leaks.leaks()]
    if warn and leaks:
        leaks.append("note: --leaks drop leaves such training rows out, --leaks ignore does not look for them")
    return lines + leaks


def remarks(run: Run, splits: Splits) -> list[str]:
    """What a user should know about the data: truncation, rows left out, queries that teach nothing."""
    lines = []
    for name, parts in splits.items():
        for split, examples in parts.items():
            share = float(examples.truncated.mean())
            if share > 0:
                lines.append(
                    f"{name}/{split}: {share:.1%} of the inputs are truncated to {run.tasks[name].max_length} tokens"
                )
            if examples.unlabelled:
                lines.append(f"{name}/{split}: {counted(examples.unlabelled, 'row')} without a label left out")
            if examples.dropped:
                lines.append(
                    f"{name}/{split}: {counted(examples.dropped, 'row')} left out that stand in evaluation rows"
                )
            without = int(counts(run.tasks[name], examples).get("queries_without_relevant", 0))
            if without:
                effect = "no task loss for" if split == "train" else "0 in the metrics for"
                what = counted(without, "query", "queries")
                lines.append(f"{name}/{split}: {effect} {what} without a relevant candidate")
    return lines


def make_model(checked: Checked) -> MultiTaskModel:
    """A pretrained encoder with fresh heads; in adaptation the multi-task encoder and, if reused, its head."""
    run = checked.run
    if run.config.phase == "adapt":
        fresh = set(run.tasks) if run.config.head == "fresh" else set()
        model: MultiTaskModel = load_model(checked.encoder, run.tasks, fresh=fresh, seed=run.config.train.seed)
        return model
    return build_model(
        checked.encoder, run.tasks, seed=run.config.train.seed, trust_remote_code=run.config.trust_remote_code
    )


def start_directory(
    run: Run, checked: Checked, splits: Splits, output: Path, *, resume: bool, command: list[str]
) -> None:
    """Writes what describes the run, or checks that a resumed one is described the same.

    Raises:
        UserError: The run in the directory has another configuration or other data.
    """
    fingerprints = {
        f"{name}/{split}": part.fingerprint for name, parts in splits.items() for split, part in parts.items()
    }
    if resume:
        problems = differences(run, read_run(output), str(output / RUN_FILE))
        stored = json.loads((output / "provenance.json").read_text())["data"]
        for key in sorted(stored.keys() | fingerprints.keys()):
            if stored.get(key) != fingerprints.get(key):
                problems.append(Problem("--resume", f"the data of {key} is not what the run began with"))
        if problems:
            raise UserError(problems)
        return
    if output.exists():
        for path in output.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    output.mkdir(parents=True, exist_ok=True)
    provenance = {
        "command": command,
        "seed": run.config.train.seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {package: installed_version(package) for package in RECORDED_PACKAGES},
        "git_revision": git_revision(),
        "data": fingerprints,
        "sources": {f"{n}/{split}": str(s) for n, parts in checked.data.sources.items() for split, s in parts.items()},
        "leaks": [leak.as_json() for leak in checked.data.leaks.leaks()],
    }
    write_file(output / "provenance.json", json.dumps(provenance, indent=1))
    write_file(output / TASKS_FILE, dump_tasks(run.tasks))
    write_file(output / RUN_FILE, dump_yaml(run.config.model_dump()))


def differences(new: Run, old: Run, where: str) -> list[Problem]:
    """What a resumed run would change."""

    def flat(data: Any, prefix: str = "") -> dict[str, Any]:
        if isinstance(data, dict) and data:
            return {k: v for key, value in data.items() for k, v in flat(value, f"{prefix}{key}.").items()}
        return {prefix[:-1]: data}

    before, after = (
        flat({**run.config.model_dump(), "tasks": {name: task.model_dump() for name, task in run.tasks.items()}})
        for run in (old, new)
    )
    return [
        Problem("--resume", f"{key} is {after.get(key)!r}, but {where} says {before.get(key)!r}")
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in INDIFFERENT
    ]


def resume_command(command: list[str]) -> str:
    import shlex

    words = [word for word in command if word not in ("--overwrite", "--resume")]
    return shlex.join([*words, "--resume"])


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """The revision of this code, if it runs from a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


class RunHooks:
    """Evaluation, files and display of a run, as `trainer.Hooks` asks for them."""

    def __init__(
        self, run: Run, model: MultiTaskModel, tokenizer: Any, splits: Splits, plan: Plan, output: Path, say: Say
    ) -> None:
        self.run, self.model, self.tokenizer, self.splits = run, model, tokenizer, splits
        self.plan, self.output = plan, output
        self._bar: Any = None
        self._outputs: dict[str, dict[str, Outputs]] = {}
        self._say = say

    def bar(self, done: int) -> Any:
        """The progress bar, silent unless stderr is a terminal."""
        self._bar = tqdm(
            total=self.plan.steps, initial=done, unit="step", disable=None, file=sys.stderr, dynamic_ncols=True
        )
        return self._bar

    def say(self, line: str) -> None:
        if self._bar is not None and not self._bar.disable:
            self._bar.clear()
        self._say(line)

    def progress(self, step: int, task: str, loss: float | None) -> None:
        if loss is None:
            self._bar.update(step - self._bar.n)
        else:
            self._bar.set_postfix_str(f"{task} loss {loss:.3f}")

    def evaluate(self, step: int) -> dict[str, dict[str, dict[str, float]]]:
        self._outputs = {}
        results: dict[str, dict[str, dict[str, float]]] = {}
        for name, task in self.run.tasks.items():
            self._outputs[name], results[name] = {}, {}
            for split, examples in self.splits[name].items():
                if split == "train":
                    continue
                outputs = split_outputs(
                    self.model,
                    partial(self.model, name),
                    examples,
                    task,
                    self.tokenizer.pad_token_id,
                    self.run.config.evaluation.batch_size,
                )
                self._outputs[name][split] = outputs
                results[name][split] = score(task, outputs, examples)
        return results

    def keep_best(self, task: str, step: int) -> None:
        for split, outputs in self._outputs[task].items():
            records = prediction_records(self.run.tasks[task], outputs, self.splits[task][split])
            write_predictions(self.output / "predictions" / f"{task}.{split}.jsonl", records)
        metrics = {
            split: score(self.run.tasks[task], o, self.splits[task][split]) for split, o in self._outputs[task].items()
        }
        loaded = task_of(self.model, task, self.run.tasks[task], self.tokenizer)
        save_export(loaded, task, self.output / "best" / task, metrics, verify=False)

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        save_checkpoint(self.output / "checkpoints", checkpoint, self.run.config.checkpoint.keep_last)

    def report(self, step: int, metrics: Mapping[str, Any], improved: Mapping[str, bool], state: TrainState) -> None:
        self.say(evaluation_line(step, self.plan.steps, metrics, improved, self.run.tasks))
        self.store_results(state, finished=False)

    def store_results(self, state: TrainState, *, finished: bool) -> dict[str, Any]:
        """Writes `results.json`: each task's metrics at its best step, and what they compare to."""
        results = {
            "tasks": {name: best["splits"] for name, best in state.best.items()},
            "best_steps": {name: best["step"] for name, best in state.best.items()},
            "last": state.last,
            "baselines": self._baselines,
            "data": {name: self._data_facts(name) for name in self.run.tasks},
            "steps": state.step,
            "planned_steps": self.plan.steps,
            "skipped_steps": state.skipped,
            "finished": finished,
        }
        write_file(self.output / RESULTS_FILE, json.dumps(results, indent=1))
        return results

    @cached_property
    def _baselines(self) -> dict[str, Any]:
        return {
            name: {
                split: score_baseline(self.run.tasks[name], parts["train"], examples)
                for split, examples in parts.items()
                if split != "train"
            }
            for name, parts in self.splits.items()
        }

    def _data_facts(self, name: str) -> dict[str, Any]:
        return {
            split: {
                "rows": len(part),
                "unlabelled": part.unlabelled,
                "dropped": part.dropped,
                "truncated": int(part.truncated.sum()),
            }
            for split, part in self.splits[name].items()
        }
