"""The importer takes MT-DNN's files as they are, tells what it cannot take, and leaves nothing half done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep import mtdnn, mtdnn_tsv
from data_prep.mtdnn import DIVERGENCES, LOSSES, METRICS, TYPES, main
from data_prep.mtdnn_tsv import CELLS
from mtl.cli import main as run_mtl
from mtl.metrics import METRICS as OURS

# As MT-DNN's own files are written: cola, mnli and stsb of its GLUE file, copa of its SuperGLUE one.
COLA = """\
cola:
  data_format: PremiseOnly
  dropout_p: 0.05
  enable_san: false
  metric_meta:
  - ACC
  - MCC
  loss: CeCriterion
  kd_loss: MseCriterion
  adv_loss: SymKlCriterion
  n_class: 2
  task_type: Classification
"""
MNLI = """\
mnli:
  data_format: PremiseAndOneHypothesis
  dropout_p: 0.3
  enable_san: true
  labels:
  - contradiction
  - neutral
  - entailment
  metric_meta:
  - ACC
  loss: CeCriterion
  kd_loss: MseCriterion
  n_class: 3
  split_names:
  - train
  - matched_dev
  - mismatched_dev
  - matched_test
  - mismatched_test
  task_type: Classification
"""
STSB = """\
stsb:
  data_format: PremiseAndOneHypothesis
  enable_san: false
  metric_meta:
  - Pearson
  - Spearman
  n_class: 1
  loss: MseCriterion
  kd_loss: MseCriterion
  adv_loss: MseCriterion
  task_type: Regression
"""
COPA = """\
copa:
  data_format: PremiseAndMultiHypothesis
  enable_san: false
  metric_meta:
  - ACC
  loss: RankCeCriterion
  kd_loss: MseCriterion
  adv_loss: SymKlCriterion
  n_class: 1
  task_type: Ranking
"""
TSVS = {
    "cola_train": "0\t1\tThe cat sat.\n1\t0\tCat the sat.\n",
    "cola_dev": "0\t1\tShe left.\n1\t0\tLeft she of.\n",
    "cola_test": "0\t0\tHe came.\n1\t0\tHim came.\n",
    "mnli_train": "7\tneutral\tA man eats.\tHe eats.\n8\tentailment\tA dog ran.\tIt is.\n9\tcontradiction\ta\tb\n",
    "mnli_matched_dev": "1\tneutral\tRain fell.\tIt was May.\n2\tentailment\tHe slept.\tHe rested.\n",
    "mnli_mismatched_dev": "1\tneutral\tSnow fell.\tIt was June.\n2\tcontradiction\tHe ran.\tHe sat.\n",
    "mnli_matched_test": "1\tcontradiction\tIce.\tFire.\n2\tcontradiction\tSun.\tLight.\n",
    "mnli_mismatched_test": "1\tcontradiction\tTea.\tMilk.\n2\tcontradiction\tOne.\tTwo.\n",
    "stsb_train": "0\t2.500\tA plane.\tA jet.\n1\t0.0\tA fox.\tA tree.\n",
    "stsb_dev": "0\t5\tA pan.\tOne pan.\n1\t1.25\tA cup.\tA lid.\n",
    "stsb_test": "0\t0.0\tA pot.\tA pen.\n1\t0.0\tA key.\tA lock.\n",
    "copa_train": "0\t0,0\t1,0\tIt rained.\tso it was wet\tso it was dry\n1\t1,1\t0,1\tHe fell.\tso a\tso b\n",
    "copa_dev": "0\t5,6,7\t0,1,0\tIt froze.\tso x\tso y\tso z\n1\t8,9\t1,0\tHe won.\tso c\tso d\n",
}
NOTE = "note: "


def definition(**keys: Any) -> str:
    """A task `t` of the simplest kind, with keys replaced, or left out where None."""
    base = {"data_format": "PremiseOnly", "task_type": "Classification", "n_class": 2, "metric_meta": ["ACC"]}
    return yaml.safe_dump({"t": {key: value for key, value in (base | keys).items() if value is not None}})


def rows_of(data_format: str) -> str:
    return {
        "PremiseOnly": "0\t1\ta\n1\t0\tb\n",
        "PremiseAndOneHypothesis": "0\t1\ta\tb\n1\t0\tc\td\n",
        "PremiseAndMultiHypothesis": "0\tx,y\t1,0\ta\tb\tc\n1\tx,y\t0,1\td\te\tf\n",
    }[data_format]


class Import:
    """One directory of MT-DNN files and what importing them gives."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.output = folder / "out" / "imported"
        (folder / "data").mkdir()

    def tsv(self, **files: str | bytes) -> Import:
        for name, content in files.items():
            raw = content if isinstance(content, bytes) else content.encode()
            (self.folder / "data" / f"{name}.tsv").write_bytes(raw)
        return self

    def run(self, *texts: str, options: tuple[str, ...] = ()) -> int:
        files = [self.folder / f"def{index}.yml" for index in range(len(texts))]
        for file, text in zip(files, texts, strict=True):
            file.write_text(text, encoding="utf-8")
        words = [*map(str, files), "--data", str(self.folder / "data"), "--output", str(self.output), *options]
        self.status = main(words)
        captured = self.capsys.readouterr()
        self.out, self.err = captured.out, captured.err
        return self.status

    def notes(self) -> list[str]:
        return [line.removeprefix(NOTE) for line in self.out.splitlines() if line.startswith(NOTE)]

    def errors(self) -> list[str]:
        """Errors without the directory that the test happens to use."""
        assert self.status == 2
        assert all(line.startswith("error: ") for line in self.err.splitlines())
        text = self.err.replace(f"{self.folder}/data/", "").replace(f"{self.folder}/", "")
        return [line.removeprefix("error: ") for line in text.splitlines()]

    def tasks(self) -> dict[str, Any]:
        assert self.status == 0, self.err
        tasks: dict[str, Any] = yaml.safe_load((self.output / "task_defs.yml").read_text(encoding="utf-8"))
        return tasks

    def rows(self, file: str) -> list[dict[str, Any]]:
        lines = (self.output / file).read_text(encoding="utf-8").split("\n")
        assert lines.pop() == ""
        return [json.loads(line) for line in lines]


@pytest.fixture
def imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    return Import(tmp_path, capsys)


def small(imported: Import, data_format: str = "PremiseOnly") -> Import:
    rows = rows_of(data_format)
    return imported.tsv(t_train=rows, t_dev=rows, t_test=rows)


def test_glue_and_superglue_files_become_definitions_that_validate(imported: Import) -> None:
    imported.tsv(**TSVS).run(COLA + MNLI + STSB, COPA)
    pair = {"text_a": "premise", "text_b": "hypothesis", "label": "label"}
    assert imported.tasks() == {
        "cola": {
            "type": "classification",
            "data": {
                "files": {"train": "cola/train.jsonl", "validation": "cola/validation.jsonl"},
                "columns": {"text_a": "premise", "label": "label"},
            },
            "labels": ["0", "1"],
            "metrics": ["accuracy", "mcc"],
            "loss": "cross_entropy",
            "dropout": 0.05,
            "smart": {"divergence": "sym_kl"},
        },
        "mnli": {
            "type": "classification",
            "data": {
                "files": {
                    "train": "mnli/train.jsonl",
                    "validation": "mnli/validation.jsonl",
                    "mismatched_dev": "mnli/mismatched_dev.jsonl",
                },
                "columns": pair,
            },
            "labels": ["contradiction", "neutral", "entailment"],
            "metrics": ["accuracy"],
            "loss": "cross_entropy",
            "dropout": 0.3,
        },
        "stsb": {
            "type": "regression",
            "data": {
                "files": {"train": "stsb/train.jsonl", "validation": "stsb/validation.jsonl"},
                "columns": pair,
            },
            "metrics": ["pearson", "spearman"],
            "loss": "mse",
            "smart": {"divergence": "mse"},
        },
        "copa": {
            "type": "ranking",
            "data": {
                "files": {"train": "copa/train.jsonl", "validation": "copa/validation.jsonl"},
                "columns": {**pair, "group": "uid"},
            },
            "metrics": ["p@1"],
            "loss": "listwise",
            "smart": {"divergence": "sym_kl"},
        },
    }
    assert run_mtl(["validate", str(imported.output / "task_defs.yml")]) == 0
    text = (imported.output / "task_defs.yml").read_text(encoding="utf-8")
    assert "{" not in text and str(imported.folder) not in text  # block style, relative paths


def test_what_is_printed(imported: Import) -> None:
    imported.tsv(**TSVS).run(COLA + MNLI + COPA)
    out = imported.output
    lines = imported.out.splitlines()
    assert lines[:3] == [
        f"        2 rows  {out}/cola/train.jsonl",
        f"        2 rows  {out}/cola/validation.jsonl",
        f"        2 rows  {out}/cola/test.jsonl",
    ]
    assert f"        5 rows  {out}/copa/validation.jsonl" in lines
    assert lines[-1] == f"next: python run_mtl.py validate {out}/task_defs.yml"
    told = imported.notes()
    assert sum(note.startswith("cola, mnli, copa: kd_loss is left out") for note in told) == 1
    assert sum(note.startswith("mnli: enable_san is left out") for note in told) == 1  # false elsewhere
    assert sum("copa: there is no copa_test.tsv" in note for note in told) == 1
    assert sum("--no-smart" in note for note in told) == 1


def test_rows_of_each_format(imported: Import) -> None:
    imported.tsv(**TSVS).run(COLA + MNLI + STSB + COPA)
    assert imported.rows("cola/train.jsonl")[0] == {"uid": "0", "premise": "The cat sat.", "label": 1}
    pair = {"uid": "7", "premise": "A man eats.", "hypothesis": "He eats.", "label": "neutral"}
    assert imported.rows("mnli/train.jsonl")[0] == pair
    assert [row["label"] for row in imported.rows("stsb/train.jsonl")] == [2.5, 0.0]
    assert imported.rows("copa/validation.jsonl")[:3] == [
        {"uid": "0", "ruid": ruid, "premise": "It froze.", "hypothesis": hypothesis, "label": label}
        for ruid, hypothesis, label in (("5", "so x", 0.0), ("6", "so y", 1.0), ("7", "so z", 0.0))
    ]


@pytest.mark.parametrize(("kind", "data_format"), TYPES)
def test_every_form_is_imported_and_validates(imported: Import, kind: str, data_format: str) -> None:
    small(imported, data_format).run(definition(task_type=kind, data_format=data_format, metric_meta=None))
    assert imported.tasks()["t"]["type"] == kind.lower()
    assert set(imported.tasks()["t"]["data"]["columns"].values()) <= set(CELLS[data_format])
    assert run_mtl(["validate", str(imported.output / "task_defs.yml")]) == 0


FORM_OF = {
    "classification": ("Classification", "PremiseOnly"),
    "regression": ("Regression", "PremiseOnly"),
    "ranking": ("Ranking", "PremiseAndMultiHypothesis"),
}


@pytest.mark.parametrize(("task_type", "theirs", "ours"), [(*key, ours) for key, ours in METRICS.items()])
def test_every_metric(imported: Import, task_type: str, theirs: str, ours: str) -> None:
    assert OURS[ours].task_type == task_type
    kind, data_format = FORM_OF[task_type]
    small(imported, data_format).run(definition(task_type=kind, data_format=data_format, metric_meta=[theirs]))
    assert imported.tasks()["t"]["metrics"] == [ours]


@pytest.mark.parametrize(
    ("keys", "expected", "note"),
    [
        ({"metric_meta": ["MCC", "ACC"]}, {"metrics": ["mcc", "accuracy"]}, ""),  # the order selects the best step
        ({"metric_meta": ["AUC", "ACC"]}, {"metrics": ["accuracy"]}, "t: the metric AUC of a classification has no"),
        ({"metric_meta": ["SeqEval"]}, {"metrics": None}, "the defaults of a classification are used, accuracy"),
        ({"metric_meta": ["F1"], "n_class": 3}, {"metrics": ["macro_f1"]}, "macro_f1 is used instead"),
        ({"metric_meta": None}, {"metrics": None}, ""),
        ({"dropout_p": 0}, {"dropout": 0}, ""),
        ({}, {"dropout": None, "loss": None, "smart": None}, ""),
        ({"loss": "MlmCriterion"}, {"loss": "cross_entropy"}, "loss MlmCriterion of a classification has no"),
        ({"loss": "MseCriterion"}, {"loss": "cross_entropy"}, "cross_entropy is used instead"),
        ({"adv_loss": "CeCriterion"}, {"smart": {"divergence": "sym_kl"}}, "sym_kl is used instead"),
        ({"labels": ["no", "yes"], "n_class": 3}, {"labels": ["no", "yes"]}, "n_class is 3, but there are 2 labels"),
        ({"enable_san": True}, {}, "enable_san is left out"),
        ({"encoder_type": "ROBERTA"}, {}, "encoder_type is left out: --encoder names"),
        ({"kd_loss": "MseCriterion"}, {}, "kd_loss is left out"),
        (
            {"metric_mata": ["ACC"]},
            {},
            "'metric_mata' is none of MT-DNN's and is left out; did you mean 'metric_meta'?",
        ),
    ],
)
def test_keys(imported: Import, keys: dict[str, Any], expected: dict[str, Any], note: str) -> None:
    rows = "0\tno\ta\n1\tyes\tb\n" if "labels" in keys else rows_of("PremiseOnly")
    imported.tsv(t_train=rows, t_dev=rows, t_test=rows).run(definition(**keys))
    task = imported.tasks()["t"]
    assert {key: task.get(key) for key in expected} == expected
    assert len(imported.notes()) == (2 if note else 1) + (keys.get("metric_meta") == ["SeqEval"])
    assert any(note in line for line in imported.notes())
    assert run_mtl(["validate", str(imported.output / "task_defs.yml")]) == 0


@pytest.mark.parametrize("theirs", DIVERGENCES)
@pytest.mark.parametrize("task_type", FORM_OF)
def test_every_divergence(imported: Import, theirs: str, task_type: str) -> None:
    kind, data_format = FORM_OF[task_type]
    keys: dict[str, Any] = {"task_type": kind, "data_format": data_format, "metric_meta": None, "adv_loss": theirs}
    small(imported, data_format).run(definition(**keys))
    ours, difference = DIVERGENCES[theirs]
    fits = task_type != "regression" or ours == "mse"
    assert imported.tasks()["t"]["smart"]["divergence"] == (ours if fits else "mse")
    told = [note for note in imported.notes() if "adv_loss" in note]
    assert len(told) == (not fits or difference != "")
    assert all(difference in note for note in told if fits)
    assert run_mtl(["validate", str(imported.output / "task_defs.yml")]) == 0


@pytest.mark.parametrize(("theirs", "ours"), LOSSES.items())
def test_every_loss(imported: Import, theirs: str, ours: str) -> None:
    task_type = {"cross_entropy": "classification", "mse": "regression", "listwise": "ranking"}[ours]
    kind, data_format = FORM_OF[task_type]
    keys = {"task_type": kind, "data_format": data_format, "metric_meta": None, "loss": theirs}
    small(imported, data_format).run(definition(**keys))
    assert imported.tasks()["t"]["loss"] == ours
    assert len(imported.notes()) == 1


def test_the_last_of_two_equal_keys_counts(imported: Import) -> None:
    text = "t:\n  data_format: PremiseOnly\n  task_type: Regression\n  n_class: 2\n  task_type: Classification\n"
    small(imported).run(text + "  dropout_p: 0.3\n  dropout_p: 0.2\n")
    assert imported.tasks()["t"]["type"] == "classification"
    assert imported.tasks()["t"]["dropout"] == 0.2
    place = f"{imported.folder}/def0.yml"
    assert f"{place}:5: the key 'task_type' stands here again; the last one counts, as in MT-DNN" in imported.notes()
    assert f"{place}:7: the key 'dropout_p' stands here again; the last one counts, as in MT-DNN" in imported.notes()


def test_merged_keys_are_read_as_by_yaml(imported: Import) -> None:
    base = "t: &t\n  data_format: PremiseOnly\n  task_type: Classification\n  n_class: 2\n  dropout_p: 0.3\n"
    small(imported).tsv(other_train=rows_of("PremiseOnly"), other_dev=rows_of("PremiseOnly"))
    assert imported.run(base + "other:\n  <<: *t\n  dropout_p: 0.2\n") == 0
    assert {name: task["dropout"] for name, task in imported.tasks().items()} == {"t": 0.3, "other": 0.2}
    assert not any("stands here again" in note for note in imported.notes())
    imported.run(base + "other:\n  <<: 5\n", options=("--overwrite",))
    assert any("def0.yml:7: '<<' merges something other than mappings" in error for error in imported.errors())


def test_quotes_and_strange_characters_survive(imported: Import) -> None:
    texts = ['"open', 'a "b" c"', "''", "back\\slash", "tab-less, comma", "ünï\u2028cödé", "ring\x0bing\rreturn", ""]
    rows = "".join(f"{index}\t{index % 2}\t{text}\n" for index, text in enumerate(texts))
    imported.tsv(t_train=rows, t_dev=rows, t_test=b"\xef\xbb\xbf0\t0\ta\r\n1\t1\tb\r\n\n").run(definition())
    assert [row["premise"] for row in imported.rows("t/train.jsonl")] == texts
    assert "cödé" in (imported.output / "t" / "train.jsonl").read_text(encoding="utf-8")  # readable, not escaped
    expected = [{"uid": "0", "premise": "a", "label": 0}, {"uid": "1", "premise": "b", "label": 1}]
    assert imported.rows("t/test.jsonl") == expected
    assert run_mtl(["validate", str(imported.output / "task_defs.yml")]) == 0


def test_labels_that_yaml_would_change(imported: Import) -> None:
    labels = ["no", "1e5", "007", "null", "a: b"]
    rows = "".join(f"{index}\t{label}\tx\n" for index, label in enumerate(labels))
    text = "t:\n  data_format: PremiseOnly\n  task_type: Classification\n  labels: [no, 1e5, 007, null, 'a: b']\n"
    imported.tsv(t_train=rows, t_dev=rows, t_test=rows).run(text)
    assert imported.tasks()["t"]["labels"] == labels
    assert [row["label"] for row in imported.rows("t/train.jsonl")] == labels
    assert run_mtl(["validate", str(imported.output / "task_defs.yml")]) == 0


def test_ranking_labels_by_name_are_their_place(imported: Import) -> None:
    rows = (
        "0\tx,y\tentailment,not_entailment\tp\ta\tb\n1\tx,y,z\tnot_entailment,not_entailment,entailment\tq\tc\td\te\n"
    )
    imported.tsv(t_train=rows, t_dev=rows, t_test=rows.replace("not_", "")).run(
        definition(
            task_type="Ranking",
            data_format="PremiseAndMultiHypothesis",
            labels=["not_entailment", "entailment"],
            n_class=1,
        )
    )
    assert [row["label"] for row in imported.rows("t/train.jsonl")] == [1, 0, 0, 0, 1]
    assert "labels" not in imported.tasks()["t"]
    assert all("label" not in row for row in imported.rows("t/test.jsonl"))


def test_queries_with_the_same_uid_stay_apart(imported: Import) -> None:
    rows = "q\tx,y\t1,0\tp\ta\tb\nr\tx,y\t1,0\tp\tc\td\nq\tx,y\t0,1\tp\te\tf\n"
    keys = {"task_type": "Ranking", "data_format": "PremiseAndMultiHypothesis"}
    imported.tsv(t_train=rows, t_dev=rows, t_test=rows).run(definition(**keys))
    assert [row["uid"] for row in imported.rows("t/train.jsonl")] == ["q", "q", "r", "r", "q#3", "q#3"]
    assert sum("uid" in note for note in imported.notes()) == 1


@pytest.mark.parametrize(
    ("split_names", "files"),
    [
        (None, {"train": "train", "dev": "validation", "test": "test"}),
        (
            ["train", "matched_dev", "mismatched_dev"],
            {"train": "train", "matched_dev": "validation", "mismatched_dev": ""},
        ),
        (["train", "dev", "validation"], {"train": "train", "dev": "", "validation": "validation"}),
        (["train", "val"], {"train": "train", "val": "validation"}),
        (["r1_train", "r1_dev", "r1_test"], {"r1_train": "train", "r1_dev": "validation", "r1_test": ""}),
    ],
)
def test_splits(imported: Import, split_names: list[str] | None, files: dict[str, str]) -> None:
    for split in files:
        imported.tsv(**{f"t_{split}": f"0\t1\tfrom {split}\n1\t0\tb\n"})
    imported.run(definition(split_names=split_names))
    renamed = {split: name or split for split, name in files.items()}
    assert imported.tasks()["t"]["data"]["files"] == {name: f"t/{name}.jsonl" for name in renamed.values()}
    for split, name in renamed.items():
        assert imported.rows(f"t/{name}.jsonl")[0]["premise"] == f"from {split}"
    assert run_mtl(["validate", str(imported.output / "task_defs.yml")]) == 0


def test_further_training_splits_are_written_and_told(imported: Import) -> None:
    rows = rows_of("PremiseOnly")
    imported.tsv(t_r1_train=rows, t_r2_train=rows, t_r1_dev=rows)
    imported.run(definition(split_names=["r1_train", "r2_train", "r1_dev"]))
    assert list(imported.tasks()["t"]["data"]["files"]) == ["train", "validation"]
    assert len(imported.rows("t/r2_train.jsonl")) == 2
    assert any("t/r2_train.jsonl is no split of the task" in note for note in imported.notes())


def test_placeholders_of_a_test_split(imported: Import) -> None:
    rows = rows_of("PremiseOnly")
    # SuperGLUE's CB has names for labels and writes 0 where there is none.
    imported.tsv(t_train=rows, t_dev="0\t1\ta\n1\t1\tb\n", t_test="0\tunknown\ta\n1\tunknown\tb\n").run(definition())
    assert imported.rows("t/test.jsonl") == [{"uid": "0", "premise": "a"}, {"uid": "1", "premise": "b"}]
    # Only of a test split: a validation split of one class is what it says.
    assert list(imported.tasks()["t"]["data"]["files"]) == ["train", "validation"]
    (note,) = [note for note in imported.notes() if "placeholders" in note]
    assert "t/test.jsonl" in note and "run_mtl.py predict --input FILE" in note
    assert run_mtl(["validate", str(imported.output / "task_defs.yml")]) == 0


def test_placeholders_of_a_ranking(imported: Import) -> None:
    """SuperGLUE's COPA says of every test row that the first candidate is right."""
    same = "0\tx,y\t1,0\tp\ta\tb\n1\tx,y\t1,0\tp\tc\td\n"
    imported.tsv(**TSVS, copa_test=same).run(COPA)
    assert "test" not in imported.tasks()["copa"]["data"]["files"]
    assert all("label" not in row for row in imported.rows("copa/test.jsonl"))
    # Where training rows have the right one first as well, that is how the data is written.
    imported.tsv(copa_train=same).run(COPA, options=("--overwrite",))
    assert imported.tasks()["copa"]["data"]["files"]["test"] == "copa/test.jsonl"
    assert [row["label"] for row in imported.rows("copa/test.jsonl")] == [1.0, 0.0, 1.0, 0.0]


def test_a_labelled_test_split_is_a_split(imported: Import) -> None:
    small(imported).run(definition())
    assert imported.tasks()["t"]["data"]["files"]["test"] == "t/test.jsonl"
    assert not any("placeholders" in note for note in imported.notes())


SPAN = "squad:\n  data_format: MRC\n  task_type: Span\n  metric_meta: [EmF1]\n  kd_loss: MseCriterion\n"
NER = "ner:\n  data_format: Seqence\n  task_type: SeqenceLabeling\n  labels: [O, B-PER]\n"


def test_other_kinds_of_tasks_are_left_out(imported: Import) -> None:
    small(imported).run(definition() + SPAN + NER)
    assert list(imported.tasks()) == ["t"]
    assert not any("kd_loss" in note for note in imported.notes())  # of a task that is not there at all
    assert any(
        note.startswith("squad: the task is left out: Span of MRC is no classification") for note in imported.notes()
    )
    assert any(note.startswith("ner: the task is left out: SeqenceLabeling of") for note in imported.notes())


@pytest.mark.parametrize(
    ("files", "keys", "expected"),
    [
        ({"t_train": "0\t1\ta\n1\t1\n"}, {}, ["t_train.tsv:2: has 2 cells, expected 3: uid, label, premise"]),
        (
            {"t_dev": "0\t1\ta\tb\n"},
            {},
            ["t_dev.tsv:1: has 4 cells, expected 3: uid, label, premise"],
        ),
        ({"t_train": "0\t2\ta\n"}, {}, ["t_train.tsv:1: has the unknown label '2', expected one of 0, 1"]),
        (
            {"t_train": "0\tentailmnt\ta\n"},
            {"labels": ["neutral", "entailment"]},
            [
                "t_train.tsv:1: has the unknown label 'entailmnt', expected one of neutral, entailment; "
                "did you mean 'entailment'?"
            ],
        ),
        ({"t_dev": b"0\t1\ta\n1\t1\t\xe9t\xe9\n"}, {}, ["t_dev.tsv:2: is not UTF-8 text; convert it first"]),
        (
            {"t_train": "0\thigh\ta\n"},
            {"task_type": "Regression"},
            ["t_train.tsv:1: has the label 'high', expected a number"],
        ),
        (
            {"t_dev": "0\tnan\ta\n"},
            {"task_type": "Regression"},
            ["t_dev.tsv:1: has the label 'nan', expected a number"],
        ),
        ({"t_train": ""}, {}, ["t_train.tsv: holds no rows"]),
        (
            {"t_train": "0\t5\ta\n" * 8, "t_dev": "x\n"},
            {},
            [
                *(f"t_train.tsv:{line}: has the unknown label '5', expected one of 0, 1" for line in range(1, 6)),
                "t_train.tsv: 3 more bad rows",
                "t_dev.tsv:1: has 1 cell, expected 3: uid, label, premise",
            ],
        ),
    ],
)
def test_bad_rows(imported: Import, files: dict[str, str | bytes], keys: dict[str, Any], expected: list[str]) -> None:
    good = "0\tneutral\ta\n" if "labels" in keys else rows_of("PremiseOnly")
    imported.tsv(**{"t_train": good, "t_dev": good, **files}).run(definition(**keys))
    assert imported.errors() == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "0\tx,y\t1,0,0\tp\ta\tb",
            "uid '0', 2 ruids and 3 labels for 2 hypotheses; expected a uid, and a ruid and label",
        ),
        ("0\tx\t1,0\tp\ta\tb", "uid '0', 1 ruid and 2 labels for 2 hypotheses"),
        ("\tx,y\t1,0\tp\ta\tb", "uid '', 2 ruids and 2 labels for 2 hypotheses"),
        ("0\tx\t1\tp\ta", "has 5 cells, expected 6 or more: uid, ruid, label, premise, hypothesis, …"),
        ("0\tx,y\t1,-1\tp\ta\tb", "has the label '-1', expected a relevance of 0 or more"),
    ],
)
def test_bad_rows_of_a_ranking(imported: Import, row: str, message: str) -> None:
    good = rows_of("PremiseAndMultiHypothesis")
    imported.tsv(t_train=good + row + "\n", t_dev=good)
    imported.run(definition(task_type="Ranking", data_format="PremiseAndMultiHypothesis"))
    (error,) = imported.errors()
    assert error.startswith("t_train.tsv:3: has ") and message in error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SPAN, "no task is left to import (squad: the task is left out: Span of MRC is no classification"),
        (definition(task_type=None), "def0.yml:1: t.task_type is missing"),
        (
            definition(n_class=None),
            "def0.yml:1: t.n_class is missing; expected the number of classes, or names in 'labels'",
        ),
        (definition(n_class=1), "def0.yml:5: t.n_class gives fewer than two classes"),
        (definition(dropout_p=1.5), "t.dropout_p is '1.5'; expected a number from 0 up to, not including, 1"),
        (definition(dropout_p="much"), "t.dropout_p is 'much'; expected a number"),
        (definition(metric_meta="ACC"), "t.metric_meta is one value; expected a list"),
        (definition(loss=["CeCriterion"]), "t.loss is a list; expected one value"),
        (definition(split_names=["train"]), "t.split_names has no dev, which training needs; --tasks names the tasks"),
        (definition(split_names=["train", "dev", "../x"]), "t.split_names has '../x'; a name may hold letters"),
        (definition(split_names=["train", "r2_dev"]), "t_r2_dev.tsv: there is no such file (split 'r2_dev')"),
        ("../t: {data_format: PremiseOnly}\n", "def0.yml:1: '../t' is no task: expected a name of letters"),
        ("t: [1, 2]\n", "def0.yml:1: 't' is no task"),
        ("- t\n", "def0.yml:1: expected a mapping at the top level, got a list"),
        ("t: {", "def0.yml:1: is not valid YAML"),
    ],
)
def test_bad_definitions(imported: Import, text: str, expected: str) -> None:
    small(imported).run(text)
    assert any(error.startswith(expected) or expected in error for error in imported.errors()), imported.errors()


def test_errors_come_together_and_nothing_is_left(imported: Import) -> None:
    imported.tsv(**TSVS)
    imported.tsv(cola_dev="0\t7\ta\n", stsb_train="0\tx\ta\tb\n", mnli_train="0\n")
    before = sorted(imported.folder.rglob("*"))
    imported.run(COLA + MNLI + STSB, COPA + "  dropout_p: 2\n", COLA, options=("--tasks", "cola,mnli,stsb,copa,sst"))
    files = {error.split(":")[0] for error in imported.errors()}
    assert files == {"cola_dev.tsv", "stsb_train.tsv", "mnli_train.tsv", "def1.yml", "def2.yml", "--tasks"}
    assert any(
        "the task 'cola' is defined here again; it is first in def0.yml:1" in error for error in imported.errors()
    )
    after = [path for path in imported.folder.rglob("*") if path.suffix != ".yml"]
    assert sorted(after) == before


def test_missing_directory_and_file(imported: Import) -> None:
    assert main([str(imported.folder / "no.yml"), "--data", str(imported.folder / "no"), "--output", "x"]) == 2
    error = imported.capsys.readouterr().err
    assert "no.yml: there is no such file" in error and "--data: there is no directory" in error


def test_data_that_is_tokenised_already_is_told_so(imported: Import) -> None:
    imported.tsv(**TSVS)
    (imported.folder / "data").mkdir(exist_ok=True)
    place = next(imported.folder.rglob("cola_dev.tsv"))
    place.rename(place.with_suffix(".json"))
    imported.run(COLA)
    told = "cola_dev.tsv: there is no such file (split 'dev'); the .json beside it is tokenised already"
    assert any(told in error for error in imported.errors()), imported.errors()


def test_tasks_are_chosen_by_name(imported: Import) -> None:
    imported.tsv(**TSVS).run(MNLI + COLA, options=("--tasks", "cola"))
    assert list(imported.tasks()) == ["cola"]
    assert not (imported.output / "mnli").exists()


def test_output_in_use(imported: Import) -> None:
    imported.tsv(**TSVS)
    assert imported.run(COLA + STSB) == 0
    assert imported.run(COLA) == 2
    assert imported.errors() == ["--output: out/imported exists; --overwrite replaces it"]
    assert (imported.output / "stsb").is_dir()
    assert imported.run(COLA, options=("--overwrite",)) == 0
    assert not (imported.output / "stsb").exists()  # an import replaces all of an earlier one
    assert [path.name for path in imported.output.parent.iterdir()] == ["imported"]


def test_a_failed_import_leaves_the_earlier_one(imported: Import) -> None:
    imported.tsv(**TSVS).run(COLA)
    files = {path: path.read_bytes() for path in imported.output.rglob("*") if path.is_file()}
    imported.tsv(cola_dev="bad\n")
    assert imported.run(COLA, options=("--overwrite",)) == 2
    assert {path: path.read_bytes() for path in imported.output.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize(
    "name", ["thesis.tex", "run/deep/file.jsonl", "rows.jsonl", "corpus/train.jsonl", "task_defs.yml"]
)
def test_overwrite_spares_what_no_import_wrote(imported: Import, name: str) -> None:
    other = imported.output / name
    other.parent.mkdir(parents=True)
    other.write_text("mine", encoding="utf-8")
    imported.tsv(**TSVS).run(COLA, options=("--overwrite",))
    assert imported.errors() == [f"--output: out/imported holds {name}, which no import wrote; name another directory"]
    assert other.read_text(encoding="utf-8") == "mine"


def test_overwrite_spares_rows_beside_an_import(imported: Import) -> None:
    assert imported.tsv(**TSVS).run(COLA) == 0
    (imported.output / "mine").mkdir()
    (imported.output / "mine" / "train.jsonl").write_text("{}", encoding="utf-8")
    assert imported.run(COLA, options=("--overwrite",)) == 2
    assert imported.errors()[0].startswith("--output: out/imported holds mine/train.jsonl, which no import wrote")


def test_rows_stream(imported: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is written before the next one is read."""
    small(imported)
    open_rows = 0
    real = mtdnn_tsv._rows

    def one_at_a_time(*words: Any, **keys: Any) -> list[dict[str, Any]]:
        nonlocal open_rows
        open_rows += 1
        return real(*words, **keys)

    monkeypatch.setattr(mtdnn_tsv, "_rows", one_at_a_time)
    task = mtdnn.Task("t", "classification", "PremiseOnly", {"0": 0, "1": 1}, {}, {})
    rows = mtdnn.read_tsv(task, imported.folder / "data" / "t_train.tsv", mtdnn.Found(), labelled=True)
    next(rows)
    assert open_rows == 1
