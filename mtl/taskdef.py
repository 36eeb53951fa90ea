"""Task definitions: type, data, labels, metrics and regularizers of a task, as read from YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from mtl.errors import listed
from mtl.file_formats import suffix_of
from mtl.metrics import TaskType
from mtl.settings import Settings, Sourced

DivergenceName = Literal["sym_kl", "kl", "js", "hellinger", "mse"]
LossName = Literal["cross_entropy", "mse", "listwise", "pairwise"]
NormName = Literal["linf", "l2"]
DropoutMode = Literal["shared", "independent"]
PresetName = Literal["paper", "mtdnn", "r3f", "rdrop"]
ProximalPresetName = Literal["paper"]
RadiusUnit = Literal["absolute", "embedding_rms"]
ScopeName = Literal["example", "token"]
AscentName = Literal["projected", "normalized"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)(\.0+)?")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# Radii relative to the embeddings' RMS below which R_s has hardly any effect: a tenth of the default, and in l2 a tenth
# of the radius that moves the coordinates of a short text as far.
SMALL_RADIUS = {"linf": 1e-3, "l2": 0.05}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class SmartSettings(Settings):
    """Smoothness-inducing adversarial regularizer R_s (arXiv 1911.03437).

    The default radius was selected on held-out training rows (RESULTS.md, d_sensitivity), λ and K are supported by them
    (d_weights); the published values are the preset `paper`.

    Attributes:
        preset: A name in `presets.PRESETS`, whose values apply to the keys that are not set explicitly.
        weight: λ, the factor of R_s in the loss; 0 disables it.
        epsilon: ε, radius of the perturbation ball; with `norm: l2` all T·D coordinates share it, so that the default,
            made for `linf`, is too small by about √(T·D).
        noise_std: σ, standard deviation of the initial noise.
        step_size: η, length of one ascent step; with `ascent: normalized`, factor of the gradient.
        unit: Unit of epsilon, noise_std and step_size: `absolute`, or `embedding_rms`, the root mean square of the
            pretrained encoder's word embeddings (its square for the step size of `ascent: normalized`).
        steps: K, number of ascent steps; 0 gives R3F (arXiv 2008.03156).
        norm: Norm of the ball and of the gradient's normalisation.
        scope: `example` for one ball around all tokens of an input, `token` for one around each token.
        ascent: `projected` as in the paper, or `normalized` as in its authors' public code; see `smart.perturbation`.
        divergence: ℓ_s; by default sym_kl, for regression mse, which allows no other.
        dropout: Whether the clean and the perturbed branch use the same dropout masks (`shared`) or each draws its own
            (`independent`, which with ε = 0 gives R-Drop's term).
        every: n: compute R_s only in every n-th step of the task, with n times the weight.
    """

    preset: PresetName | None = None
    weight: NonNegative = 1.0
    epsilon: NonNegative = 0.01
    noise_std: NonNegative = 0.01
    step_size: NonNegative = 0.1
    unit: RadiusUnit = "embedding_rms"
    steps: Annotated[int, Field(ge=0)] = 1
    norm: NormName = "linf"
    scope: ScopeName = "example"
    ascent: AscentName = "projected"
    divergence: DivergenceName | None = None
    dropout: DropoutMode = "shared"
    every: Count = 1


class ProximalSettings(Settings):
    """Momentum Bregman proximal point update (arXiv 1911.03437, section 3.2).

    By default the teacher's momentum depends on the length of the run, so that a short run is not held back near its
    initial weights; the published momentum, for runs of thousands of steps, is the preset `paper`.

    Attributes:
        preset: A name in `presets.PRESETS`, whose values apply to the keys that are not set explicitly.
        weight: μ, the factor of D in the loss; 0 disables it.
        window: Fraction of the run's steps over which the teacher averages; determines beta_early and beta_late where
            they are not set.
        beta_early: β, momentum of the teacher at the start of the run.
        beta_late: β after the switch.
        switch: When β changes, as a fraction of the run's steps.
        inner_steps: S, optimizer steps between two updates of the teacher; β = 0 with S > 1 is the method without
            momentum.
        divergence: ℓ_s; by default sym_kl, for regression mse, which allows no other.
    """

    preset: ProximalPresetName | None = None
    weight: NonNegative = 1.0
    window: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    beta_early: Fraction | None = None
    beta_late: Fraction | None = None
    switch: Fraction = 0.1
    inner_steps: Count = 1
    divergence: DivergenceName | None = None


class TaskSettings(Settings):
    """How a task is trained: the keys of a definition that `defaults` and `adapt` accept too.

    Attributes:
        loss: Loss function; by default cross_entropy, mse or listwise, depending on the type.
        class_weights: Weight of each class in cross_entropy, in the order of the labels, or `balanced`: N/(C n_c) for N
            training rows, n_c of them of class c.
        label_smoothing: Share of the target of cross_entropy that is spread evenly over all classes.
        weight: w_t, factor of the task's whole objective.
        dropout: Dropout probability of the head.
        batch_size: Rows per optimizer step.
        batch_tokens: Tokens per optimizer step, padding included; replaces batch_size.
        max_length: Maximum tokens of an input, special tokens included; longer inputs are truncated.
        learning_rate: Peak learning rate of the steps on this task.
    """

    loss: LossName | None = None
    class_weights: Literal["balanced"] | list[Positive] | None = None
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    weight: Positive = 1.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    batch_size: Count = 32
    batch_tokens: Count | None = None
    max_length: Annotated[int, Field(ge=4)] = 512
    learning_rate: Positive = 5e-5
    smart: SmartSettings = SmartSettings()
    proximal: ProximalSettings = ProximalSettings()


class Defaults(TaskSettings):
    """Section `defaults:` of a run configuration."""

    adapt: dict[str, Any] = {}


class Columns(Settings):
    """Names of the data's columns; `group` (the query id) is for ranking only."""

    text_a: str
    text_b: str | None = None
    label: str = "label"
    group: str | None = None


class DataSource(Settings):
    """Where a task's rows come from: a hub data set or local files.

    Attributes:
        hub: Hub id, such as ``nyu-mll/glue``.
        config: Configuration of the hub data set.
        files: Split name to a csv, tsv, jsonl or parquet file, relative to the definition's file.
        columns: Names of the columns.
        splits: Maps our name of a split to its name in the data; by default `train` and `validation`, or all keys of
            `files`, under the same names. It has to name `train`, and `validation` unless rows are held out of the
            training data; any other split is evaluated if it is present.
        unlabelled: Label values that mean "no label": such rows are left out and counted. Null is a missing label.
        encoding: Encoding of text files without a byte-order mark, such as cp1252; by default UTF-8.
    """

    hub: str | None = None
    config: str | None = None
    files: dict[str, str] | None = None
    columns: Columns
    splits: dict[str, str] = {}
    unlabelled: list[str | int | float | None] = []
    encoding: str | None = None

    def encoding_of(self, path: Path) -> str | None:
        """`encoding` for a file of further rows; JSON lines are UTF-8 unless the data has some too."""
        known = {suffix_of(Path(file)) for file in (self.files or {}).values()}
        return None if suffix_of(path) == ".jsonl" and ".jsonl" not in known else self.encoding


class TaskDef(TaskSettings):
    """One task, every default filled in.

    Attributes:
        type: classification, regression or ranking.
        data: Where the rows come from.
        labels: Names of the classes, in the order of the logits.
        metrics: Names in `METRICS`; the first one selects the best step.
        standardize: Whether a regression is trained on standardized labels (mean 0, standard deviation 1). When null,
            it is if the labels' standard deviation is below 0.1 or above 10, or the magnitude of their mean is above
            10. Outputs are in the labels' original units either way.
        adapt: Overrides for single-task adaptation, as a partial `TaskSettings`.
    """

    type: TaskType
    data: DataSource
    labels: list[str] = []
    metrics: list[str] = []
    standardize: bool | None = None
    adapt: dict[str, Any] = {}
    _read_from: Sourced = PrivateAttr(default_factory=Sourced)

    @field_validator("labels", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [
                str(v).lower() if isinstance(v, bool) else str(v) if isinstance(v, (int, float)) else v for v in value
            ]
        return value

    @property
    def num_labels(self) -> int:
        return len(self.labels) if self.type == "classification" else 1

    def training_settings(self) -> dict[str, Any]:
        """The task's own settings that affect its training; those that are unset or replaced are left out."""
        settings = self.model_dump(include={*TaskSettings.model_fields, "standardize"}, exclude_none=True)
        if self.batch_tokens is not None:
            del settings["batch_size"]
        return settings

    @property
    def is_pair(self) -> bool:
        return self.data.columns.text_b is not None

    @property
    def is_cross_encoder(self) -> bool:
        """Whether the model scores pairs of a query and a candidate; a ranking may also score single texts."""
        return self.type == "ranking" and self.is_pair

    @property
    def evaluation_splits(self) -> list[str]:
        """Names of all splits but `train`, `validation` first."""
        return sorted((name for name in self.data.splits if name != "train"), key=lambda name: name != "validation")

    def read_from(self, source: Sourced) -> TaskDef:
        """Copy this definition and record the origin of each of its keys."""
        task = self.model_copy()
        task._read_from = Sourced(places=source.places)
        return task

    def place(self, *path: str) -> str:
        """Origin of a key of the definition, such as ``glue.yml:12``; empty if unknown."""
        return self._read_from.place(path)

    def label_index(self) -> dict[str, int]:
        """Map the text of a label cell to its class index.

        A cell holds the name of its class or, unless some class name is a number, the index of its class. Whole numbers
        match with or without a zero fraction (1 or 1.0), since integer columns with missing values often become floats;
        the classes true and false match True and TRUE as well, which pandas and spreadsheets write.
        """
        by_name = {name: index for index, name in enumerate(self.labels)}
        if any(NUMBER.fullmatch(name) for name in self.labels):
            whole = {name.partition(".")[0]: i for name, i in by_name.items() if _WHOLE.fullmatch(name)}
        else:
            whole = {str(index): index for index in by_name.values()}
        truth = sorted((name for name in by_name if name.lower() in ("true", "false")), key=str.islower)
        spells = (str.lower, str.capitalize, str.upper)
        spelled = {spell(name): by_name[name] for name in truth for spell in spells}  # of true and True, true counts
        return spelled | {f"{number}.0": index for number, index in whole.items()} | whole | by_name


def task_notes(tasks: Mapping[str, TaskDef], limit: int) -> list[str]:
    """Notes on settings whose effect may not be the intended one.

    Args:
        tasks: The tasks.
        limit: Maximum tokens of an input that tokenizer and encoder accept.
    """
    return _length_notes(tasks, limit) + _radius_notes(tasks)


def _radius_notes(tasks: Mapping[str, TaskDef]) -> list[str]:
    small: dict[tuple[str, float], list[str]] = {}
    for name, task in tasks.items():
        smart = task.smart
        if smart.weight > 0 and smart.unit == "embedding_rms" and 0 < smart.epsilon < SMALL_RADIUS[smart.norm]:
            small.setdefault((smart.norm, smart.epsilon), []).append(name)
    told = {
        "linf": "; published radii are absolute (smart.unit: absolute, or preset: paper)",
        "l2": ", shared by all coordinates (norm: l2), so that R_s has hardly any effect; try smart.epsilon 1",
    }
    return [
        f"{listed(names)}: smart.epsilon is {epsilon:g} times the RMS of the word embeddings{told[norm]}"
        for (norm, epsilon), names in small.items()
    ]


def _length_notes(tasks: Mapping[str, TaskDef], limit: int) -> list[str]:
    asked: dict[int, list[str]] = {}
    for name, task in tasks.items():
        if task.max_length > limit and _has_own_length(task):
            asked.setdefault(task.max_length, []).append(name)
    taken = f"exceeds the encoder's limit of {limit:,} tokens; {limit:,} is used"
    return [f"{listed(names)}: max_length {length:,} {taken}" for length, names in asked.items()]


def _has_own_length(task: TaskDef) -> bool:
    """Whether `max_length` was chosen: in a run's resolved definitions, which name all keys, the default was not."""
    given = task.model_fields_set
    filled_in = task.model_dump(exclude_none=True).keys() <= given
    return "max_length" in given and not (filled_in and task.max_length == TaskDef.model_fields["max_length"].default)


DEFAULT_METRICS = {
    "classification": ["accuracy"],
    "regression": ["pearson", "spearman"],
    "ranking": ["map", "mrr"],
}
LOSSES_OF: dict[str, tuple[LossName, ...]] = {
    "classification": ("cross_entropy",),
    "regression": ("mse",),
    "ranking": ("listwise", "pairwise"),
}
DIVERGENCES_OF: dict[str, tuple[DivergenceName, ...]] = {
    "classification": ("sym_kl", "kl", "js", "hellinger", "mse"),
    "regression": ("mse",),
    "ranking": ("sym_kl", "kl", "js", "hellinger", "mse"),
}
