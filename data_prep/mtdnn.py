"""Imports task definitions, unchanged, and canonical TSV files of MT-DNN (github.com/namisan/mt-dnn).

Writes `OUTPUT/task_defs.yml` and `OUTPUT/TASK/SPLIT.jsonl`. Everything without a counterpart in the toolkit is reported
in a note. All problems are reported together, and nothing is written if there are any.

    python -m data_prep.mtdnn experiments/glue/glue_task_def.yml --data canonical_data --output data/mtdnn
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from data_prep.mtdnn_tsv import Found, Task, is_uniform, read_tsv
from mtl.definitions import select
from mtl.errors import Problem, UserError, listed, nearest
from mtl.plain_data import dump_yaml, read_yaml, scalar
from mtl.settings import KeyPath, Sourced
from mtl.taskdef import DEFAULT_METRICS, DIVERGENCES_OF, LOSSES_OF, NAME, DivergenceName, LossName

DEFINITIONS = "task_defs.yml"
IMPORTED = "# Imported from MT-DNN: "  # how `DEFINITIONS` begins
REGULARIZED = (
    "both regularizers are on by default (--no-smart --no-proximal: off); MT-DNN has one, with --adv_train only"
)

LISTS = ("labels", "metric_meta", "split_names")
REQUIRED = ("data_format", "task_type")
WORDS = (*REQUIRED, "n_class", "loss", "adv_loss", "dropout_p", "kd_loss", "enable_san", "encoder_type")
OFF = ("false", "no", "off")

# (task_type, data_format) → the toolkit's task type.
TYPES = {
    ("Classification", "PremiseOnly"): "classification",
    ("Classification", "PremiseAndOneHypothesis"): "classification",
    ("Regression", "PremiseOnly"): "regression",
    ("Regression", "PremiseAndOneHypothesis"): "regression",
    ("Ranking", "PremiseAndMultiHypothesis"): "ranking",
}
COLUMNS = {
    "PremiseOnly": {"text_a": "premise", "label": "label"},
    "PremiseAndOneHypothesis": {"text_a": "premise", "text_b": "hypothesis", "label": "label"},
    "PremiseAndMultiHypothesis": {"text_a": "premise", "text_b": "hypothesis", "label": "label", "group": "uid"},
}
METRICS = {
    ("classification", "ACC"): "accuracy",
    ("classification", "F1"): "f1",
    ("classification", "MCC"): "mcc",
    ("regression", "Pearson"): "pearson",
    ("regression", "Spearman"): "spearman",
    ("ranking", "ACC"): "p@1",  # MT-DNN's accuracy of the top-ranked candidate
}
LOSSES: dict[str, LossName] = {
    "CeCriterion": "cross_entropy",
    "MseCriterion": "mse",
    "RegCriterion": "mse",  # its name in early versions
    "RankCeCriterion": "listwise",
}
# MT-DNN's name → the toolkit's divergence and, if that is only the nearest one, how MT-DNN's differs.
DIVERGENCES: dict[str, tuple[DivergenceName, str]] = {
    "SymKlCriterion": ("sym_kl", ""),
    "NsSymKlCriterion": ("sym_kl", "MT-DNN's smooths the probabilities and stops the gradient of their logarithms"),
    "KlCriterion": ("kl", ""),
    "NsKlCriterion": ("kl", "MT-DNN's smooths the probabilities and stops the gradient of their logarithms"),
    "JSCriterion": ("js", "MT-DNN's is KL(m‖p) + KL(m‖q), not ½ KL(p‖m) + ½ KL(q‖m)"),
    "HLCriterion": ("hellinger", "MT-DNN's is a mean over the classes and has no gradient"),
    "MseCriterion": ("mse", ""),
}
LEFT_OUT = {
    "kd_loss": "is left out: there is no distillation from soft labels here",
    "enable_san": "is left out: heads are those of the Transformers class, without SAN's answer module",
    "encoder_type": "is left out: --encoder names the encoder of a run",
}
# The toolkit's split → MT-DNN's names of it, which may have a prefix: matched_dev.
ROLES = {"train": ("train",), "validation": ("dev", "validation", "val", "valid")}
DEFAULT_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Definition:
    """An MT-DNN definition; values are strings and lists of strings, as written in the file."""

    name: str
    source: Sourced
    found: Found

    def get(self, key: str) -> Any:
        return self.source.data.get(key)

    def note(self, message: str) -> None:
        self.found.note(self.name, message)

    def wrong(self, key: str, message: str) -> None:
        self.found.problem(self.source.place((key,)), f"{self.name}.{key} {message}")


def read_definitions(files: Iterable[str], found: Found) -> dict[str, Sourced]:
    """Reads definition files like MT-DNN, with the last of duplicate keys, except that a label `no` is a string."""
    definitions: dict[str, Sourced] = {}
    for file in files:
        try:
            read_yaml(file)  # reports invalid YAML and limits its size
        except UserError as error:
            found.problems += error.problems
            continue
        root = yaml.compose(Path(file).read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
        for name, (place, node) in _entries(root, file, found).items():
            if not NAME.fullmatch(name) or not isinstance(node, yaml.MappingNode):
                message = (
                    f"{name!r} is no task: expected a name of letters, digits, '-' and '_', and a mapping below it"
                )
                found.problem(place, message)
            elif name in definitions:
                first = definitions[name].place(())
                found.problem(place, f"the task {name!r} is defined here again; it is first in {first}")
            else:
                entries = _entries(node, file, found)
                places: dict[KeyPath, str] = {(): place} | {(key,): where for key, (where, _) in entries.items()}
                definitions[name] = Sourced({key: _words(value) for key, (_, value) in entries.items()}, places)
    return definitions


def _entries(node: yaml.Node | None, file: str, found: Found) -> dict[str, tuple[str, yaml.Node]]:
    """Key → its place in the file, and its value."""
    assert isinstance(node, yaml.MappingNode)
    own = sum(key.tag != "tag:yaml.org,2002:merge" for key, _ in node.value)
    try:
        yaml.SafeLoader("").flatten_mapping(node)  # what `<<` merges in comes first
    except yaml.constructor.ConstructorError:
        found.problem(f"{file}:{node.start_mark.line + 1}", "'<<' merges something other than mappings")
        return {}
    merged, entries = len(node.value) - own, dict[str, tuple[str, yaml.Node]]()
    repeated = Counter(str(key.value) for key, _ in node.value[merged:])
    for key_node, value in node.value:
        key, place = str(key_node.value), f"{file}:{key_node.start_mark.line + 1}"
        entries[key] = (place, value)
    for key, number in repeated.items():
        if number > 1:
            found.note(entries[key][0], f"the key {key!r} stands here again; the last one counts, as in MT-DNN")
    return entries


def _words(node: yaml.Node) -> str | list[str] | None:
    if isinstance(node, yaml.SequenceNode):
        return [item.value for item in node.value if isinstance(item, yaml.ScalarNode)]
    return (node.value or None) if isinstance(node, yaml.ScalarNode) else None


def translate(definition: Definition, data: Path) -> Task | None:
    """Translates a definition, for the TSV files in `data`; None if that is impossible, which is reported."""
    problems_before = len(definition.found.problems)
    for key in (*LISTS, *WORDS):
        if definition.get(key) is None and key in REQUIRED:
            definition.wrong(key, "is missing")
        elif definition.get(key) is not None and isinstance(definition.get(key), list) != (key in LISTS):
            definition.wrong(key, "is one value; expected a list" if key in LISTS else "is a list; expected one value")
    if len(definition.found.problems) > problems_before:
        return None
    form = (definition.get("task_type"), definition.get("data_format"))
    if form not in TYPES:
        kinds = "classification, regression or ranking that can be imported"
        definition.note(f"the task is left out: {' of '.join(form)} is no {kinds}")
        return None
    for key, value in definition.source.data.items():
        if key not in (*LISTS, *WORDS):
            definition.note(f"the key {key!r} is none of MT-DNN's and is left out{nearest(key, (*LISTS, *WORDS))}")
        elif key in LEFT_OUT and str(value).lower() not in OFF:
            definition.note(f"{key} {LEFT_OUT[key]}")
    values = _label_values(definition, TYPES[form])
    settings: dict[str, Any] = {"labels": list(values)} if values and TYPES[form] == "classification" else {}
    settings |= _metrics(definition, TYPES[form], len(values or ())) | _training(definition, TYPES[form])
    return Task(definition.name, TYPES[form], form[1], values, settings, _splits(definition, data))


def _label_values(source: Definition, task_type: str) -> dict[str, str | int] | None:
    """Label cell → label: the name itself for classification, its index (the relevance, as in MT-DNN) for ranking."""
    names, number = list(dict.fromkeys(source.get("labels") or ())), source.get("n_class")
    if task_type != "classification":
        return {name: index for index, name in enumerate(names)} if names and task_type == "ranking" else None
    if not names and not str(number).isdecimal():
        source.wrong("n_class", f"is {number or 'missing'}; expected the number of classes, or names in 'labels'")
        return None
    if names and number is not None and number != str(len(names)):
        source.note(f"n_class is {number}, but there are {len(names)} labels: the head gets an output for each label")
    values: dict[str, str | int] = {name: name for name in names} or {str(i): i for i in range(int(number))}
    if len(values) < 2:
        source.wrong("labels" if names else "n_class", "gives fewer than two classes")
    return values


def _metrics(source: Definition, task_type: str, classes: int) -> dict[str, list[str]]:
    metrics: list[str] = []
    for written in source.get("metric_meta") or ():
        metric = METRICS.get((task_type, written))
        if metric == "f1" and classes > 2:
            metric = "macro_f1"
            source.note("F1 is defined for two classes; with more, macro_f1 is used instead")
        if metric is None:
            source.note(f"the metric {written} of a {task_type} has no counterpart and is left out")
        elif metric not in metrics:
            metrics.append(metric)
    if source.get("metric_meta") and not metrics:
        source.note(f"no metric is left: the defaults of a {task_type} are used, {listed(DEFAULT_METRICS[task_type])}")
    return {"metrics": metrics} if metrics else {}


def _training(source: Definition, task_type: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if written := source.get("loss"):
        settings["loss"] = LOSSES.get(written)
        if settings["loss"] not in LOSSES_OF[task_type]:
            settings["loss"] = LOSSES_OF[task_type][0]
            source.note(f"loss {written} of a {task_type} has no counterpart; {settings['loss']} is used instead")
    if written := source.get("dropout_p"):
        settings["dropout"] = scalar(written)
        if not isinstance(settings["dropout"], (int, float)) or not 0 <= settings["dropout"] < 1:
            source.wrong("dropout_p", f"is {written!r}; expected a number from 0 up to, not including, 1")
    if written := source.get("adv_loss"):
        divergence, difference = DIVERGENCES.get(written, (None, ""))
        if divergence not in DIVERGENCES_OF[task_type]:
            divergence = DIVERGENCES_OF[task_type][0]
            source.note(f"adv_loss {written} of a {task_type} has no counterpart; {divergence} is used instead")
        elif difference:
            source.note(f"adv_loss {written} becomes {divergence}, the nearest: {difference}")
        settings["smart"] = {"divergence": divergence}
    return settings


def _splits(source: Definition, data: Path) -> dict[str, Path]:
    """The toolkit's split name → TSV file, for every split with a file; `train` and `validation` are required."""
    theirs = list(dict.fromkeys(source.get("split_names") or DEFAULT_SPLITS))
    for split in theirs:
        if not NAME.fullmatch(split):
            source.wrong("split_names", f"has {split!r}; a name may hold letters, digits, '-' and '_' only")
    ours = {split: split for split in theirs}
    for role, words in ROLES.items():
        # A split that already has the toolkit's name takes precedence over others that would be renamed to it.
        fitting = [split for split in theirs if split == role] + [split for split in theirs if _is(split, words)]
        if fitting:
            ours[fitting[0]] = role
        else:
            source.wrong("split_names", f"has no {words[0]}, which training needs; --tasks names the tasks to import")
    splits: dict[str, Path] = {}
    for split, name in ours.items():
        path = data / f"{source.name}_{split}.tsv"
        if path.is_file():
            splits[name] = path
        elif name in ROLES:
            prepared = path.with_suffix(".json").is_file()
            hint = "; the .json beside it is tokenised already: --data is for the canonical TSVs it was made from"
            source.found.problem(path, f"there is no such file (split {split!r}){hint if prepared else ''}")
        else:
            source.note(f"there is no {path.name}: the split {split!r} is left out")
    return splits


def _is(split: str, words: Sequence[str]) -> bool:
    """Whether a split's name ends in one of `words`, as `matched_dev` ends in `dev`."""
    return split.rpartition("_")[2] in words


def write_task(task: Task, folder: Path, found: Found) -> tuple[dict[str, Any], dict[str, int]]:
    """Writes `TASK/SPLIT.jsonl` for every split.

    Returns:
        The toolkit's definition, with paths relative to `folder`, and the number of rows of each file.
    """
    files: dict[str, str] = {}
    written: dict[str, int] = {}
    (folder / task.name).mkdir(parents=True)
    for split, path in task.splits.items():
        file, problems_before = f"{task.name}/{split}.jsonl", len(found.problems)
        # MT-DNN writes a constant label for unlabelled test rows; if training labels are constant too, it is genuine.
        placeholders = _is(split, ("test",)) and is_uniform(task, path) and not is_uniform(task, task.splits["train"])
        written[file] = 0
        with (folder / file).open("w", encoding="utf-8", newline="\n") as output:
            for row in read_tsv(task, path, found, labelled=not placeholders):
                output.write(json.dumps(row, ensure_ascii=False) + "\n")
                written[file] += 1
        if not written[file] and len(found.problems) == problems_before:
            found.problem(path, "holds no rows")
        if placeholders:
            message = f"all labels of {split} are the same, so they are placeholders: {file} has none and is no split"
            found.note(task.name, f"{message} of the task; run_mtl.py predict --input FILE predicts it")
        elif split not in ROLES and _is(split, ROLES["train"]):
            found.note(task.name, f"only the first training split is trained on; {file} is no split of the task")
        else:
            files[split] = file
    return {"type": task.type, "data": {"files": files, "columns": COLUMNS[task.data_format]}, **task.settings}, written


def convert(
    files: Sequence[str], data: Path, output: Path, *, names: Sequence[str] = (), overwrite: bool = False
) -> tuple[dict[str, int], list[str]]:
    """Imports definitions and TSV files, completely or not at all.

    Args:
        files: MT-DNN definition files.
        data: Directory with the files `TASK_SPLIT.tsv`.
        output: Directory to write.
        names: Tasks to import; all if empty.
        overwrite: Whether an earlier import in `output` may be replaced.

    Returns:
        The number of rows of each written file, and the notes.

    Raises:
        UserError: With all problems.
    """
    found, output = Found(), output.resolve()
    definitions, problems = select(read_definitions(files, found), names)
    found.problems += [*problems, *_in_the_way(output, overwrite=overwrite)]
    if not data.is_dir():
        raise UserError([*found.problems, Problem("--data", f"there is no directory {data}")])
    translated = [translate(Definition(name, source, found), data) for name, source in definitions.items()]
    tasks = [task for task in translated if task is not None]
    if not tasks and not found.problems:
        found.problem("", f"no task is left to import ({'; '.join(found.lines())})")
    parent = next(folder for folder in (*output.parents, output) if folder.is_dir())
    with TemporaryDirectory(dir=parent, prefix=f".{output.name}.") as folder:
        new = Path(folder) / "new"
        results = {task.name: write_task(task, new, found) for task in tasks}
        if found.problems:
            raise UserError(found.problems)
        texts = [f"{IMPORTED}{', '.join(Path(file).name for file in files)}\n"]
        texts += [dump_yaml({name: definition}) for name, (definition, _) in results.items()]
        (new / DEFINITIONS).write_text("\n".join(texts), encoding="utf-8", newline="\n")
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists():
            output.rename(Path(folder) / "old")
        new.rename(output)
    return {file: rows for _, written in results.values() for file, rows in written.items()}, found.lines()


def _in_the_way(output: Path, *, overwrite: bool) -> list[Problem]:
    if output.exists() and not output.is_dir():
        return [Problem("--output", f"{output} is a file; name a directory")]
    tasks = _imported(output / DEFINITIONS)
    for path in output.rglob("*"):
        parts = path.relative_to(output).parts
        rows = len(parts) == 2 and parts[0] in tasks and path.suffix == ".jsonl"
        if path.is_file() and not rows and (parts != (DEFINITIONS,) or not tasks):
            message = f"{output} holds {'/'.join(parts)}, which no import wrote; name another directory"
            return [Problem("--output", message)]
    if not overwrite and output.exists() and any(output.iterdir()):
        return [Problem("--output", f"{output} exists; --overwrite replaces it")]
    return []


def _imported(definitions: Path) -> set[str]:
    """Tasks of the import that wrote these definitions; none if they are no import's."""
    try:
        text = definitions.read_text(encoding="utf-8")
        return set(read_yaml(definitions)[0].data) if text.startswith(IMPORTED) else set()
    except (OSError, ValueError, UserError):
        return set()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: import, then print one line per file, the notes and the next command."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.mtdnn", description="Import MT-DNN task definitions and their canonical TSVs."
    )
    parser.add_argument("files", nargs="+", metavar="TASK_DEF.yml", help="MT-DNN task definitions")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="directory of TASK_SPLIT.tsv")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--tasks", default="", metavar="A,B", help="tasks to import (default: all)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier import")
    options = parser.parse_args(argv)
    names = [name.strip() for name in options.tasks.split(",") if name.strip()]
    try:
        written, notes = convert(options.files, options.data, options.output, names=names, overwrite=options.overwrite)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    for file, rows in written.items():
        print(f"{rows:>9,} rows  {options.output / file}")
    for note in [*notes, REGULARIZED]:
        print(f"note: {note}")
    print(f"next: python run_mtl.py validate {options.output / DEFINITIONS}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
