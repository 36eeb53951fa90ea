"""Task definitions: what is shipped is sound, what does not fit is told, and names agree with the tables they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from mtl import config, taskdef
from mtl.definitions import complete, read_task_defs, select
from mtl.errors import Problem
from mtl.metrics import METRICS, TaskType
from mtl.plain_data import parse_yaml
from mtl.presets import PRESETS, with_presets
from mtl.settings import Sourced, check
from mtl.taskdef import (
    DEFAULT_METRICS,
    DIVERGENCES_OF,
    LOSSES_OF,
    ProximalSettings,
    SmartSettings,
    TaskDef,
    task_notes,
)

ROOT = Path(__file__).resolve().parent.parent

CLASSIFICATION = """\
type: classification
data:
  hub: owner/set
  columns: {text_a: sentence}
labels: [a, b]
"""
REGRESSION = """\
type: regression
data:
  hub: owner/set
  columns: {text_a: first, text_b: second}
"""
RANKING = """\
type: ranking
data:
  hub: owner/set
  columns: {text_a: question, text_b: answer, group: id}
"""
MINIMAL = {"classification": CLASSIFICATION, "regression": REGRESSION, "ranking": RANKING}
TYPES = get_args(TaskType)


def read(text: str) -> tuple[TaskDef | None, list[str]]:
    source, problems = parse_yaml(text, "t.yml")
    assert problems == []
    task, found = complete("t", source)
    return task, [str(problem) for problem in found]


def sound(text: str) -> TaskDef:
    task, problems = read(text)
    assert problems == []
    assert task is not None
    return task


def test_what_is_wrong_of_one_task_is_told_together(tmp_path: Path) -> None:
    task, problems = read(CLASSIFICATION + "batch_size: 0\nweight: no\nmetrics: [acuracy]\nloss: 5\nepochs: 3\n")
    told = [
        "batch_size is the number 0",
        "weight is the text 'no'",
        "'acuracy' is not a metric",
        "loss is",
        "key 't.epochs'",
    ]
    assert len(problems) == len(told) and all(any(part in problem for problem in problems) for part in told), problems
    assert task is not None and task.batch_size == sound(CLASSIFICATION).batch_size, "so that its rows can be checked"
    line = (
        "{type: regression, data: {hub: a/b, columns: {text_a: a, label: b}}, tpye: 1, loss: 5, metrics: [acuracy]}\n"
    )
    assert len(read(line)[1]) == 3, "also where all stand in one line"


def test_files_may_lie_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "folder" / "t.yml"
    path.parent.mkdir()
    path.write_text("t: {type: regression, data: {files: {train: ~/a.csv, validation: b.csv}}}\n")
    definitions, problems = read_task_defs([path])
    files = {"train": str(tmp_path / "a.csv"), "validation": str(path.parent / "b.csv")}
    assert definitions["t"].data["data"]["files"] == files and problems == []


def test_a_radius_that_is_nearly_nothing_is_told() -> None:
    texts = {
        "copied": "smart: {epsilon: 1e-5}\n",
        "absolute": "smart: {epsilon: 1e-5, unit: absolute}\n",
        "paper": "smart: {preset: paper}\n",
        "rdrop": "smart: {preset: rdrop}\n",
        "off": "smart: {epsilon: 1e-5, weight: 0}\n",
        "default": "",
        "shared": "smart: {norm: l2}\n",
        "wide": "smart: {norm: l2, epsilon: 1, step_size: 1}\n",
    }
    first, second = task_notes({name: sound(CLASSIFICATION + text) for name, text in texts.items()}, 512)
    assert first.startswith("copied: smart.epsilon is 1e-05 times the RMS of the word embeddings; published radii")
    assert second.startswith("shared: smart.epsilon is 0.01 times the RMS of the word embeddings, shared by all coord")


def test_a_length_that_was_chosen_is_told_where_it_is_too_long() -> None:
    lengths = {"default": "", "same": "max_length: 512\n", "c": "max_length: 600\n", "d": "max_length: 600\n"}
    tasks = {name: sound(CLASSIFICATION + text) for name, text in lengths.items()}
    resolved, _ = parse_yaml(config.dump_tasks(tasks), "task_defs.yml")  # in which every default stands
    kept = {name: task for name in tasks if (task := complete(name, resolved.child(name))[0])}
    more = "exceeds the encoder's limit of 64 tokens; 64 is used"
    assert task_notes(tasks, 64) == [f"same: max_length 512 {more}", f"c, d: max_length 600 {more}"]
    assert task_notes(kept, 64) == [f"c, d: max_length 600 {more}"]
    assert task_notes(tasks, 600) == []


@pytest.mark.parametrize("path", sorted((ROOT / "task_defs").glob("*.yml")), ids=lambda path: path.name)
def test_shipped_definitions_are_sound(path: Path) -> None:
    definitions, problems = read_task_defs([path])
    assert problems == []
    assert definitions
    for name, source in definitions.items():
        task, problems = complete(name, source)
        assert problems == []
        assert task is not None


def test_shipped_definitions_do_not_clash() -> None:
    assert read_task_defs(sorted((ROOT / "task_defs").glob("*.yml")))[1] == []


@pytest.mark.parametrize("task_type", TYPES)
def test_defaults_follow_the_type(task_type: str) -> None:
    task = sound(MINIMAL[task_type])
    divergence: taskdef.DivergenceName = "mse" if task_type == "regression" else "sym_kl"
    loss = {"classification": "cross_entropy", "regression": "mse", "ranking": "listwise"}[task_type]
    assert task.loss == loss
    assert task.metrics == DEFAULT_METRICS[task_type]
    assert task.data.splits == {"train": "train", "validation": "validation"}
    assert task.data.columns.label == "label"
    assert task.smart == SmartSettings(
        weight=1.0,
        epsilon=0.01,
        noise_std=0.01,
        step_size=0.1,
        unit="embedding_rms",
        steps=1,
        norm="linf",
        dropout="shared",
        every=1,
        divergence=divergence,
    )
    assert task.proximal == ProximalSettings(weight=1.0, window=0.1, inner_steps=1, divergence=divergence)
    assert (task.weight, task.dropout, task.max_length) == (1.0, 0.1, 512)
    assert task.num_labels == (2 if task_type == "classification" else 1)
    assert task.is_pair == (task_type != "classification")


def test_splits_default_to_the_files() -> None:
    text = CLASSIFICATION.replace("hub: owner/set", "files: {train: a.csv, validation: b.csv, hard: c.csv}")
    task = sound(text)
    assert task.data.splits == {"train": "train", "validation": "validation", "hard": "hard"}
    assert task.evaluation_splits == ["validation", "hard"]


def test_validation_is_evaluated_first() -> None:
    splits = "splits: {test: test, train: train, hard: x, validation: dev}"
    assert sound(CLASSIFICATION.replace("labels", f"  {splits}\nlabels")).evaluation_splits == [
        "validation",
        "test",
        "hard",
    ]


# Definition, line of the fault, message.
INCONSISTENT: dict[str, tuple[str, int, str]] = {
    "labels of a regression": (
        REGRESSION + "labels: [a, b]\n",
        5,
        "t.labels are for classification; this task is regression",
    ),
    "no labels": (
        CLASSIFICATION.replace("labels: [a, b]\n", ""),
        1,
        "t.labels: classification needs at least two, in the order of the data's integer labels",
    ),
    "one label": (
        CLASSIFICATION.replace("[a, b]", "[a]"),
        5,
        "t.labels: classification needs at least two, in the order of the data's integer labels",
    ),
    "a label twice": (CLASSIFICATION.replace("[a, b]", "[a, b, a]"), 5, "t.labels: 'a' is listed twice"),
    "a number and a word twice": (CLASSIFICATION.replace("[a, b]", "[1, '1']"), 5, "t.labels: '1' is listed twice"),
    "neither hub nor files": (
        CLASSIFICATION.replace("  hub: owner/set\n", ""),
        2,
        "t.data needs either 'hub' or 'files'",
    ),
    "hub and files": (
        CLASSIFICATION.replace("labels", "  files: {train: a.csv, validation: b.csv}\nlabels"),
        2,
        "t.data needs either 'hub' or 'files', not both",
    ),
    "config of files": (
        CLASSIFICATION.replace("hub: owner/set", "files: {train: a.csv, validation: b.csv}\n  config: rte"),
        4,
        "t.data.config belongs to 'hub', not to 'files'",
    ),
    "a split that leaves the directory": (
        CLASSIFICATION.replace("labels", "  splits: {train: train, validation: validation, ../x: test}\nlabels"),
        5,
        "t.data.splits: the name '../x' may contain only letters, digits, '-' and '_'",
    ),
    "a split without a file": (
        CLASSIFICATION.replace(
            "hub: owner/set",
            "files: {train: a.csv, validation: b.csv}\n  splits: {train: train, validation: validatoin}",
        ),
        4,
        "t.data.splits.validation: 'files' has no 'validatoin'; did you mean 'validation'?",
    ),
    "no train split": (
        CLASSIFICATION.replace("labels", "  splits: {validation: validation}\nlabels"),
        5,
        "t.data.splits has no 'train'; it has: validation",
    ),
    "ranking without groups": (
        RANKING.replace(", group: id", ""),
        4,
        "t.data.columns.group is missing: ranking needs the column that holds the query's id",
    ),
    "groups without ranking": (
        REGRESSION.replace("second}", "second, group: id}"),
        4,
        "t.data.columns.group is for ranking; this task is regression",
    ),
    "the label as the query": (
        RANKING.replace("group: id", "group: label"),
        4,
        "t.data.columns: 'label' is used twice",
    ),
    "a column twice": (REGRESSION.replace("second", "first"), 4, "t.data.columns: 'first' is used twice"),
    "an unknown metric": (
        CLASSIFICATION + "metrics: [acuracy]\n",
        6,
        "t.metrics: 'acuracy' is not a metric for classification; allowed: "
        + ", ".join(name for name, metric in METRICS.items() if metric.task_type == "classification")
        + "; did you mean 'accuracy'?",
    ),
    "a metric of another type": (
        REGRESSION + "metrics: [pearson, map]\n",
        5,
        "t.metrics: 'map' is not a metric for regression; allowed: "
        + ", ".join(name for name, metric in METRICS.items() if metric.task_type == "regression")
        + "; did you mean 'mae'?",
    ),
    "a binary metric of three labels": (
        CLASSIFICATION.replace("[a, b]", "[a, b, c]") + "metrics:\n  - accuracy\n  - f1\n",
        8,
        "t.metrics: 'f1' needs two labels, there are 3; try 'macro_f1'",
    ),
    "a loss of another type": (
        REGRESSION + "loss: cross_entropy\n",
        5,
        "t.loss: 'cross_entropy' does not fit regression; allowed: mse",
    ),
    "class weights of a regression": (
        REGRESSION + "class_weights: balanced\n",
        5,
        "t.class_weights is for classification; this task is regression",
    ),
    "label smoothing of a ranking": (
        RANKING + "label_smoothing: 0.1\n",
        5,
        "t.label_smoothing is for classification; this task is ranking",
    ),
    "a class weight too few": (
        CLASSIFICATION + "class_weights: [1.5]\n",
        6,
        "t.class_weights: expected one number per label, got 1 for 2 labels",
    ),
    "a divergence of another type": (
        REGRESSION + "smart:\n  weight: 1\n  divergence: js\n",
        7,
        "t.smart.divergence: 'js' does not fit regression; allowed: mse",
    ),
    "a proximal divergence of another type": (
        REGRESSION + "proximal: {divergence: sym_kl}\n",
        5,
        "t.proximal.divergence: 'sym_kl' does not fit regression; allowed: mse",
    ),
}


@pytest.mark.parametrize("case", INCONSISTENT)
def test_what_does_not_fit_is_told_with_its_line(case: str) -> None:
    text, line, message = INCONSISTENT[case]
    assert read(text)[1] == [f"t.yml:{line}: {message}"]


def test_all_that_does_not_fit_is_told_together() -> None:
    text = REGRESSION + "labels: [a]\nloss: listwise\nmetrics: [accuracy]\nsmart: {divergence: js}\nwieght: 2\n"
    lines = [problem.split(": ")[0] for problem in read(text)[1]]
    assert sorted(lines) == ["t.yml:5", "t.yml:6", "t.yml:7", "t.yml:8", "t.yml:9"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smart: {epsilon: -1}\n", "t.smart.epsilon is the number -1; expected at least 0"),
        ("smart: {norm: l1}\n", "t.smart.norm is the text 'l1'; allowed: linf, l2"),
        ("dropout: 1.0\n", "t.dropout is the number 1.0; expected less than 1"),
        ("max_length: 3\n", "t.max_length is the number 3; expected at least 4"),
        ("weight: 0\n", "t.weight is the number 0; expected more than 0"),
        ("proximal: {switch: 1.5}\n", "t.proximal.switch is the number 1.5; expected at most 1"),
        (
            "adapt: {smart: {wieght: 3}}\n",
            f"unknown key 't.adapt.smart.wieght'; allowed: {', '.join(sorted(SmartSettings.model_fields))}"
            "; did you mean 'weight'?",
        ),
        ("adapt: {dropout: high}\n", "t.adapt.dropout is the text 'high'; expected a valid number"),
        ("adapt: 3\n", "t.adapt is the number 3; expected a mapping"),
    ],
)
def test_values_out_of_range_and_the_adapt_section(text: str, message: str) -> None:
    assert read(CLASSIFICATION + text)[1] == [f"t.yml:6: {message}"]


def test_the_adapt_section_may_not_change_what_the_task_is() -> None:
    (problem,) = read(CLASSIFICATION + "adapt: {type: regression}\n")[1]
    assert problem.startswith("t.yml:6: unknown key 't.adapt.type'; allowed: ")


def test_the_adapt_section_is_kept_as_written() -> None:
    assert sound(CLASSIFICATION + "adapt: {smart: {weight: 3.0}}\n").adapt == {"smart": {"weight": 3.0}}


LABEL_INDEX: list[tuple[list[Any], dict[str, int]]] = [
    (["no", "yes"], {"no": 0, "yes": 1, "0": 0, "1": 1}),
    ([False, True], {"false": 0, "true": 1, "False": 0, "True": 1, "FALSE": 0, "TRUE": 1, "0": 0, "1": 1}),
    ([0, 1], {"0": 0, "1": 1}),
    ([1, 0], {"1": 0, "0": 1}),
    ([3, 4, 5], {"3": 0, "4": 1, "5": 2}),
    ([-1, 1], {"-1": 0, "1": 1}),
    # 0 could be meant as an index or be a mistake: it is no label.
    (["1", "2", "other"], {"1": 0, "2": 1, "other": 2}),
    # What writes 0.0 as 0 means the number, never the second of the classes by 1.
    ([0.0, 0.5, 1.0], {"0.0": 0, "0.5": 1, "1.0": 2, "0": 0, "1": 2}),
    ([0.5, 1.5], {"0.5": 0, "1.5": 1}),
    ([-1.0, 1], {"-1.0": 0, "1": 1, "-1": 0}),
    (["1e1", ".5"], {"1e1": 0, ".5": 1}),
    (["no", True], {"no": 0, "true": 1, "True": 1, "TRUE": 1, "0": 0, "1": 1}),
    (["true", "True"], {"true": 0, "True": 1, "TRUE": 0, "0": 0, "1": 1}),
    (["v1.0", "v2.0"], {"v1.0": 0, "v2.0": 1, "0": 0, "1": 1}),
]


@pytest.mark.parametrize(("labels", "index"), LABEL_INDEX, ids=[str(labels) for labels, _ in LABEL_INDEX])
def test_label_cells_name_a_class_or_count_through_the_labels(labels: list[Any], index: dict[str, int]) -> None:
    data = {"hub": "owner/set", "columns": {"text_a": "x"}}
    task, problems = check(TaskDef, Sourced({"type": "classification", "data": data, "labels": labels}))
    assert problems == []
    assert task is not None
    whole = {f"{cell}.0": place for cell, place in index.items() if re.fullmatch("-?(0|[1-9][0-9]*)", cell)}
    assert task.label_index() == index | whole, "integers beside a missing one become 1.0 in many files"


def test_files_are_relative_to_the_definition(tmp_path: Path) -> None:
    folder = tmp_path / "defs"
    folder.mkdir()
    path = folder / "t.yml"
    path.write_text("t:\n  data:\n    files: {train: ../data/a.csv, validation: /b.csv, odd: 5}\n")
    definitions, problems = read_task_defs([path])
    files = definitions["t"].data["data"]["files"]
    assert problems == []
    assert Path(files["train"]).resolve() == tmp_path / "data" / "a.csv"
    assert files["validation"] == "/b.csv"
    assert files["odd"] == 5


@pytest.mark.parametrize("name", ["..", "../up", "a/b", ".hidden", "", "a b", "a\\b", "/etc", "ä", "-x", "x" * 65])
def test_task_names_cannot_leave_their_directory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "t.yml"
    path.write_text(f"ok: {{}}\n{name!r}: {{}}\n" if name != "a\\b" else "ok: {}\n'a\\b': {}\n", encoding="utf-8")
    definitions, problems = read_task_defs([path])
    assert list(definitions) == ["ok"]
    message = f"the task name {name!r} may contain only letters, digits, '-' and '_' (it names directories)"
    assert problems == [Problem(f"{path}:2", message)]


@pytest.mark.parametrize("name", ["rte", "a", "1", "mnli-mm", "A_2", "x" * 64])
def test_plain_task_names_are_taken(name: str, tmp_path: Path) -> None:
    path = tmp_path / "t.yml"
    path.write_text(f"{name}: {{}}\n")
    assert list(read_task_defs([path])[0]) == [name]


def test_a_task_defined_in_two_files_is_told_with_both_places(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yml", tmp_path / "second.yml"
    first.write_text("a: {weight: 1}\nb: {}\n")
    second.write_text("c: {}\n\na: {weight: 2}\n")
    definitions, problems = read_task_defs([first, second])
    assert list(definitions) == ["a", "b", "c"]
    assert definitions["a"].data == {"weight": 1}
    assert problems == [Problem(f"{second}:3", f"the task 'a' is already defined in {first}:1")]


def test_bad_files_do_not_hide_the_good_ones(tmp_path: Path) -> None:
    good, broken, missing = tmp_path / "good.yml", tmp_path / "broken.yml", tmp_path / "missing.yml"
    good.write_text("a: {}\nb: 3\n")
    broken.write_text("x: [1\n")
    definitions, problems = read_task_defs([missing, broken, good])
    assert list(definitions) == ["a"]
    assert [problem.where for problem in problems] == [str(missing), f"{broken}:2", f"{good}:2"]
    assert problems[2].message == "the task 'b' is the number 3; expected a mapping with type, data, …"


def test_tasks_are_selected_in_the_order_named() -> None:
    tasks = {name: Sourced({}) for name in ("rte", "mnli", "cola")}
    assert list(select(tasks, [])[0]) == ["rte", "mnli", "cola"]
    chosen, problems = select(tasks, ["cola", "mnlii", "rte"])
    assert list(chosen) == ["cola", "rte"]
    message = "there is no task 'mnlii'; defined are: rte, mnli, cola; did you mean 'mnli'?"
    assert problems == [Problem("--tasks", message)]


@pytest.mark.parametrize(("section", "preset"), [(s, name) for s, table in PRESETS.items() for name in table])
def test_preset_stands_below_what_the_definition_says(section: str, preset: str) -> None:
    """A preset's values hold where nothing else is said, and a resolved definition keeps them when read again."""
    own = {"type": "regression", "data": {"hub": "a/b", "columns": {"text_a": "t"}}}
    key = {"smart": "epsilon", "proximal": "switch"}[section]
    task, problems = complete("t", with_presets(Sourced({**own, section: {"preset": preset, key: 0.125}})))
    assert problems == [] and task is not None
    expected = PRESETS[section][preset] | {key: 0.125}
    assert {name: getattr(getattr(task, section), name) for name in expected} == expected
    again, problems = complete("t", with_presets(Sourced(task.model_dump(exclude_none=True))))
    assert problems == [] and again == task


def test_names_in_settings_are_those_of_the_tables() -> None:
    from mtl.losses import DIVERGENCES, LOSSES
    from mtl.optimizer import DECAYS, OPTIMIZERS
    from mtl.sampling import SAMPLERS
    from mtl.smart import ASCENTS, DIMENSIONS, NORMS

    tables: list[tuple[Any, Any]] = [
        (taskdef.LossName, LOSSES),
        (taskdef.DivergenceName, DIVERGENCES),
        (taskdef.NormName, NORMS),
        (taskdef.ScopeName, DIMENSIONS),
        (taskdef.AscentName, ASCENTS),
        (taskdef.PresetName, PRESETS["smart"]),
        (taskdef.ProximalPresetName, PRESETS["proximal"]),
        (config.SamplerName, SAMPLERS),
        (config.OptimizerName, OPTIMIZERS),
        (config.ScheduleName, DECAYS),
    ]
    for literal, table in tables:
        assert set(get_args(literal)) == set(table)
    for table in (DEFAULT_METRICS, LOSSES_OF, DIVERGENCES_OF):
        assert set(table) == set(TYPES)
    assert {name for names in LOSSES_OF.values() for name in names} == set(LOSSES)
    assert {name for names in DIVERGENCES_OF.values() for name in names} == set(DIVERGENCES)
    for task_type, metrics in DEFAULT_METRICS.items():
        assert {METRICS[metric].task_type for metric in metrics} == {task_type}
