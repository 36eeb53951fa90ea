"""Settings of a run: sections, command-line options, and their precedence.

Built-in default < run configuration (`train`, then `defaults`) < the task's own definition < flags and `--set`. Among
the latter, the most specific key takes precedence (`tasks.rte.…` over `defaults.…` over `train.…`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mtl.definitions import complete, select
from mtl.errors import Problem, UserError, listed, nearest
from mtl.plain_data import Flow, dump_yaml, parse_yaml, plain, read_yaml
from mtl.precedence import PER_TASK, contradictions, inherited, layered, of_a_task, without_rivals
from mtl.settings import Settings, Sourced, check, dotted
from mtl.taskdef import Count, Defaults, Fraction, NonNegative, Positive, TaskDef

SamplerName = Literal["round_robin", "proportional", "sqrt", "temperature", "annealed"]
OptimizerName = Literal["adamw", "adamax", "radam"]
ScheduleName = Literal["linear", "cosine", "constant"]
LeakPolicy = Literal["drop", "warn", "ignore"]
PrecisionName = Literal["fp32", "bf16", "fp16"]
TrackerName = Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "trackio", "wandb"]


class TrainSettings(Settings):
    """Section `train`.

    Attributes:
        epochs: Length of the run in epochs; an epoch has as many steps as one pass over the data of all tasks has
            batches, divided by `tasks_per_step`.
        max_steps: Length of the run in optimizer steps, instead of epochs.
        learning_rate: Peak learning rate. In a configuration file it applies to tasks that set none, on the command
            line to all tasks.
        batch_size: Rows per optimizer step, for the same tasks.
        max_length: Maximum tokens per input, for the same tasks.
        accumulation: Micro-batches into which each process splits its share of a step's batch.
        tasks_per_step: Tasks drawn for each optimizer step, each with its own batch; the step uses the mean of their
            objectives.
        loss_scaling: `log_classes` divides the objective of a classification by log C, so that all start near 1
            (arXiv 2101.11038, section 3.2).
        precision: Autocast type; weights stay in float32.
        clip_norm: Maximum global gradient norm.
        gradient_checkpointing: Whether to recompute activations in the backward pass: less memory, more time.
        seed: Seed of all random draws.
        train_size: Examples (ranking: queries) of each task to train on.
        train_fraction: The same as a fraction.
        task_sizes: Examples (ranking: queries) of individual tasks. Overrides the two keys above, unless they are given
            on the command line and task_sizes in a file.
        holdout: Fraction of the training examples (ranking: queries) held out as the split `holdout`, which is then
            evaluated instead of all other splits: for choices that must not depend on the reported rows.
        holdout_rows: Minimum number of examples (ranking: queries) held out.
        smart: Whether R_s is on for tasks whose weight is above 0.
        proximal: Whether D is on for tasks whose weight is above 0.
        on_nonfinite: Whether a NaN or infinite term or gradient stops the run, or only skips its step.
        max_skipped: Maximum number of steps skipped in a run.
        log_every: Steps between two writes of the log.
    """

    epochs: Count = 5
    max_steps: Count | None = None
    learning_rate: Positive = 5e-5
    batch_size: Count = 32
    max_length: Annotated[int, Field(ge=4)] = 512
    accumulation: Count = 1
    tasks_per_step: Count = 1
    loss_scaling: Literal["none", "log_classes"] = "none"
    precision: PrecisionName = "fp32"
    clip_norm: Positive = 1.0
    gradient_checkpointing: bool = False
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 42
    train_size: Count | None = None
    train_fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    task_sizes: dict[str, Count] = {}
    holdout: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    holdout_rows: Count = 1
    smart: bool = True
    proximal: bool = True
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped: Annotated[int, Field(ge=0)] = 10
    log_every: Count = 10


class OptimizerSettings(Settings):
    """Section `optimizer`.

    Attributes:
        name: A name in `OPTIMIZERS`.
        weight_decay: Decoupled weight decay, not applied to biases and normalisation weights.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment (Adamax: of the infinity norm).
        epsilon: Added to the denominator.
        head_factor: Learning rate multiplier for the heads and the pooler.
    """

    name: OptimizerName = "adamw"
    weight_decay: NonNegative = 0.01
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    epsilon: Positive = 1e-8
    head_factor: Positive = 10.0


class ScheduleSettings(Settings):
    """Section `schedule`: learning rate schedule; `warmup` is a fraction of the run's steps."""

    name: ScheduleName = "linear"
    warmup: Fraction = 0.1


class SamplingSettings(Settings):
    """Section `sampling`: which task each step trains on.

    Attributes:
        strategy: A name in `SAMPLERS`.
        temperature: τ of the strategy `temperature`, which draws task t with p_t ∝ N_t^(1/τ).
    """

    strategy: SamplerName = "round_robin"
    temperature: Annotated[float, Field(ge=1.0)] = 5.0


class EvaluationSettings(Settings):
    """Section `evaluation`.

    Attributes:
        every: Steps between evaluations (default: each epoch).
        patience: Evaluations without an improvement on any task after which the run stops (default: never).
        batch_tokens: Tokens per evaluation batch, padding included (default: 2,048 on a CPU, 16,384 on an accelerator).
    """

    every: Count | None = None
    patience: Count | None = None
    batch_tokens: Count | None = None


class CheckpointSettings(Settings):
    """Section `checkpoint`: steps between checkpoints (default: each evaluation) and how many are kept."""

    every: Count | None = None
    keep_last: Count = 2


class TelemetrySettings(Settings):
    """Section `telemetry`: what is recorded of a run besides its log. It does not affect results.

    Attributes:
        trackers: Names in `TRACKERS`, used through Accelerate; TensorBoard and `metrics.jsonl` are always written.
        project: Project under which the trackers record the run.
        gradient_cosine_every: Steps between measurements of the cosines between the tasks' gradients (default: never).
        probe_rows: Training rows of each task on which they are measured.
    """

    trackers: list[TrackerName] = []
    project: Annotated[str, Field(min_length=1)] = "mtl"
    gradient_cosine_every: Count | None = None
    probe_rows: Count = 64


class RunConfig(Settings):
    """A run's configuration, as written to `run.yml`.

    Attributes:
        phase: `train` (several tasks, from an encoder) or `adapt` (one task, from a run directory).
        encoder: Hub id, directory or `pkg:PACKAGE/SUBDIR`; in adaptation, `model` in the directory of the run to start
            from.
        head: In adaptation, how the head is initialised: `reuse` is the run's head for the task, `fresh` a new one, and
            the name of another task the run's head for that task.
        task_defs: Definition files, relative to the configuration file.
        data_root: Local mirror of the hub.
        leaks: What to do about training rows that also occur in the evaluation data of any task: `drop` them, `warn`
            about them, or `ignore` them, without a search.
        num_proc: Processes that tokenise the data; does not affect results.
        trust_remote_code: Whether the encoder's repository may run its own code.
        defaults: Task settings. In a configuration file they apply to tasks that do not set them, on the command line
            to all tasks.
        tasks: Settings by task name.
        inherited: By task name, the values in the run's `task_defs` that come from a default or the run's settings
            rather than from the task's definition. The settings of this file override them, unless they were edited in
            `task_defs`.
    """

    phase: Literal["train", "adapt"] = "train"
    encoder: str
    head: str = "fresh"
    task_defs: list[str] = []
    data_root: str | None = None
    leaks: LeakPolicy = "warn"
    num_proc: Count = 1
    trust_remote_code: bool = False
    train: TrainSettings = TrainSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    sampling: SamplingSettings = SamplingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    defaults: dict[str, Any] = {}
    tasks: dict[str, dict[str, Any]] = {}
    inherited: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Run:
    """A resolved run: its configuration and its tasks, in the order they take turns."""

    config: RunConfig
    tasks: dict[str, TaskDef]

    @property
    def selection_split(self) -> str:
        """The split that selects each task's best step: `holdout` if training rows are held out, else `validation`."""
        return "validation" if self.config.train.holdout is None else "holdout"

    def as_trained(self, name: str) -> TaskDef:
        """The task as it is trained: disabled regularizers have weight 0, and the task's own weight is scaled."""
        task = self.tasks[name]
        changed: dict[str, Any] = {
            section: getattr(task, section).model_copy(update={"weight": 0.0})
            for section in ("smart", "proximal")
            if not getattr(self.config.train, section)
        }
        if self.config.train.loss_scaling == "log_classes" and len(task.labels) > 1:
            changed["weight"] = task.weight / math.log(len(task.labels))
        return task.model_copy(update=changed)


def from_mapping(settings: Mapping[str, Any]) -> Sourced:
    """Convert settings given in Python, with dotted keys (`train.max_steps`) or nested, to settings with origins.

    Raises:
        UserError: `settings` is not a mapping, a value is not plain data, or two settings are mutually exclusive.
    """
    if not isinstance(settings, Mapping):
        example = "a mapping, such as {'train.max_steps': 100}"
        raise UserError.of("settings", f"is of the type {type(settings).__name__}; expected {example}")
    result, problems = Sourced(), list[Problem]()
    for key, value in settings.items():
        place = f"settings[{key!r}]"
        if not isinstance(key, str) or not all(key.split(".")):
            problems.append(Problem(place, "expected a dotted key, such as 'train.max_steps'"))
            continue
        data, found = plain(value, place)
        problems += found
        result = Sourced(data, {(): place}).below(*key.split(".")).over(result)
    if problems := problems + contradictions(result):
        raise UserError(problems)
    return result


def command_line(flags: Mapping[str, tuple[str, Any]], sets: Sequence[str]) -> Sourced:
    """Convert command-line options to settings.

    Args:
        flags: Dotted key to (flag as typed, value); a value of None is not set.
        sets: The `KEY=VALUE` arguments of `--set`; values are parsed as YAML.

    Raises:
        UserError: An argument has no `=`, a value is not YAML, or two options are mutually exclusive.
    """
    result = Sourced()
    problems: list[Problem] = []
    pairs: list[tuple[str, Any, str]] = [
        (key, value, flag) for key, (flag, value) in flags.items() if value is not None
    ]
    for word in sets:
        key, equals, text = word.partition("=")
        if not equals or not all(key.split(".")):
            problems.append(Problem(f"--set {word}", "expected KEY=VALUE, such as train.max_steps=100"))
            continue
        try:
            value, found = parse_yaml(f"value: {text}", f"--set {key}")
            pairs.append((key, value.data.get("value"), f"--set {key}"))
            problems += found
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    for key, value, place in pairs:
        result = Sourced(value, {(): place}).below(*key.split(".")).over(result)
    problems = contradictions(result)
    for key, (flag, value) in flags.items():
        path = tuple(key.split("."))
        if value is False and result.child(*path).data is not False:
            problems.append(Problem(flag, f"cannot be combined with {result.place(path)}; remove one of them"))
    if problems:
        raise UserError(problems)
    return result


def read_run_config(path: str | Path) -> tuple[Sourced, list[Problem]]:
    """Read a run configuration, in which the paths of task definition files are relative to its directory."""
    source, problems = read_yaml(path)
    files = source.data.get("task_defs")
    if isinstance(files, list):
        folder = Path(path).resolve().parent
        absolute = [str(folder / file) if isinstance(file, str) else file for file in files]
        source = Sourced({**source.data, "task_defs": absolute}, source.places)
    return source, problems


def resolve(
    definitions: Mapping[str, Sourced],
    file: Sourced,
    overrides: Sourced,
    names: Sequence[str] = (),
    settled: Sourced | None = None,
) -> tuple[RunConfig | None, dict[str, TaskDef], list[Problem]]:
    """Merge all layers into a configuration and complete task definitions.

    Args:
        definitions: Partial definition per task.
        file: Settings of `--config`.
        overrides: Settings of flags and `--set`.
        names: Tasks to select, in order; all when empty.
        settled: By task name, the values of the definitions that are `inherited`.

    Returns:
        The configuration (None if invalid), the valid tasks, and every problem.
    """
    # `epochs` of the file is harmless: max_steps takes precedence over it.
    merged = overrides.over(without_rivals(file, overrides, keep="epochs"))
    config, found = check(RunConfig, merged)
    problems = [*map(of_a_task, found), *check(Defaults, merged.child("defaults"), ("defaults",))[1]]
    told = {problem.where for problem in problems}  # not reported again for each task
    chosen, missing = select(definitions, names)
    problems += missing
    known = listed(list(definitions), 40)
    earlier = merged.child("inherited")  # of the run that wrote the file, which may have had more tasks
    for path in (("tasks",), ("train", "task_sizes")):
        section = merged.child(*path).data
        for name in section if isinstance(section, dict) else {}:
            if name not in definitions and not earlier.child(name).data:
                message = f"{dotted((*path, name))}: there is no such task; defined are: {known}"
                problems.append(Problem(merged.place((*path, name)), message + nearest(name, definitions)))
    tasks: dict[str, TaskDef] = {}
    settled, inherits = settled or Sourced(), dict[str, dict[str, Any]]()
    adapting = merged.data.get("phase", "train") == "adapt"
    for name, own in chosen.items():
        settings, named = layered(name, own, settled.child(name), file, overrides, adapting=adapting)
        task, found = complete(name, settings)
        problems += [problem for problem in found if problem.where not in told]
        if task is not None:
            tasks[name], inherits[name] = task, inherited(task, named)
    if config is not None:
        config = config.model_copy(update={"inherited": inherits})
    return config, tasks, list(dict.fromkeys(problems))


def dump_tasks(tasks: Mapping[str, TaskDef]) -> str:
    """YAML text of task definitions, as `read_task_defs` reads it."""
    return dump_yaml({name: task.model_dump(exclude_none=True) for name, task in tasks.items()})


def dump_run(run: Run) -> str:
    """YAML text of `run.yml`.

    Inherited values of `PER_TASK` that differ from those of `train` are written under `tasks`: read again, the values
    of `train` would override them. So would a `batch_size` a `batch_tokens` that is not there too.
    """
    data = run.config.model_dump(exclude={"inherited"})
    inherits = {name: run.config.inherited.get(name, {}) for name in run.tasks}
    for name, values in inherits.items():
        if own := {key: values[key] for key in PER_TASK if key in values and values[key] != data["train"][key]}:
            tokens = run.tasks[name].batch_tokens if "batch_size" in own else None
            data["tasks"][name] = own if tokens is None else {**own, "batch_tokens": tokens}
    told = "# Values in the task definitions that come from defaults or settings; to change one, set it above.\n"
    return dump_yaml(data) + told + dump_yaml({"inherited": {name: Flow(values) for name, values in inherits.items()}})
