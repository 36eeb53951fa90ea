"""What definitions say and may say: the list of tasks, the JSON Schema, and completion in shells."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from reference.json_schema import faults

from mtl.cli import COMMANDS, main
from mtl.describe import SCHEMA_FILE, SECTIONS, attribute_texts, schema_text, task_schema
from mtl.plain_data import read_yaml
from mtl.propose import propose
from mtl.source import Source, count_rows, read_rows

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted((ROOT / "task_defs").glob("*.yml"))
SCHEMA = json.loads((ROOT / "task_defs" / SCHEMA_FILE).read_text(encoding="utf-8"))


def test_tasks_are_listed_with_the_rows_at_hand(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", str(corpus), "--json"]) == 0
    tasks = json.loads(capsys.readouterr().out)
    assert tasks["mood"] == {
        "type": "classification",
        "metrics": ["accuracy", "macro_f1"],
        "labels": ["bad", "neutral", "good"],
        "source": "files",
        "rows": {"train": 90, "validation": 24},
    }
    assert [tasks[name]["type"] for name in ("strength", "answer")] == ["regression", "ranking"]
    assert main(["tasks", str(corpus), "--tasks", "answer,mood"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["answer", "mood"]
    assert lines[3].split() == "mood classification 3 accuracy, macro_f1 files train 90, validation 24".split()


def test_tasks_of_the_hub_are_listed_without_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    glue = str(ROOT / "task_defs" / "glue.yml")
    assert main(["tasks", glue, "--json"]) == 0
    tasks = json.loads(capsys.readouterr().out)
    assert tasks["mnli"]["rows"] == dict.fromkeys(("train", "validation", "validation_mismatched"))
    write_jsonl(tmp_path / "nyu-mll" / "glue" / "rte" / "train.jsonl", [{"a": 1}] * 7)
    assert main(["tasks", glue, "--tasks", "rte", "--json", "--data-root", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["rte"]["rows"] == {"train": 7, "validation": None}


def test_listing_tasks_tells_all_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.yml"
    file.write_text("a:\n  tpye: ranking\nb: 5\n")
    assert main(["tasks", str(file), "--data-root", str(tmp_path / "no"), "--tasks", "c"]) == 2
    error = capsys.readouterr().err
    for part in ("the task 'b' is the number 5", "there is no task 'c'", "there is no directory"):
        assert part in error
    assert main(["tasks", str(file)]) == 2
    assert "t.yml:2: unknown key 'a.tpye'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["tasks", str(SHIPPED[0])], ["schema"], ["completion", "bash"]])
def test_answers_come_without_torch(words: list[str]) -> None:
    code = "import sys; from mtl.cli import main; assert main(sys.argv[1:]) == 0; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "datasets", "accelerate"} & set(done.stderr.split())


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_rows_are_counted_as_they_are_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"a": ["x"] * 13}), path)
    elif suffix == ".jsonl":
        path.write_text('{"a": "x"}\n\n  \n{"a": "y"}\r\n{"a": "z"}')
    else:
        path.write_text('a{0}b\n"x\ny"{0}1\n\n2{0}3\n'.format("," if suffix == ".csv" else "\t"))
    assert count_rows(Source(path=path)) == len(list(read_rows(Source(path=path)))) > 0


def test_the_stored_schema_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    stored = (ROOT / "task_defs" / SCHEMA_FILE).read_text(encoding="utf-8")
    assert stored == schema_text(), "run_mtl.py schema > task_defs/task_defs.schema.json"
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == stored


def wrong(definitions: Any) -> list[str]:
    """What the schema says is wrong; where `jsonschema` is installed, it has to agree."""
    found = list(faults(definitions, SCHEMA))
    try:
        import jsonschema  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return found
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(definitions) == (not found), found
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_schema_accepts_what_is_shipped(path: Path) -> None:
    assert path.read_text().splitlines()[0] == f"# yaml-language-server: $schema={SCHEMA_FILE}"
    definitions, problems = read_yaml(path)
    assert not problems and definitions.data
    assert wrong(definitions.data) == []


GOOD: dict[str, Any] = {
    "t": {
        "type": "classification",
        "labels": [0, True, "c", 1.5],
        "data": {"files": {"train": "a.csv", "validation": "b.csv"}, "columns": {"text_a": "a"}, "unlabelled": [-1]},
        "metrics": ["accuracy"],
        "loss": None,
        "smart": {"preset": "paper", "weight": 3},
        "adapt": {"smart": {"weight": 5.0}, "learning_rate": 1e-5},
    }
}


def test_the_schema_accepts_all_that_a_definition_may_hold() -> None:
    assert wrong(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("t.metrcis", ["accuracy"], ".t.metrcis: additionalProperties"),
        ("t.smart.wieght", 1, ".t.smart.wieght: additionalProperties"),
        ("t.adapt.smrt", {}, ".t.adapt.smrt: additionalProperties"),
        ("t.adapt.smart.weight", -1, ".t.adapt.smart.weight: minimum"),
        ("t.data.columns.text", "a", ".t.data.columns.text: additionalProperties"),
        ("t.data.columns", {"label": "b"}, ".t.data.columns.text_a: required"),
        ("t.type", "clasification", ".t.type: enum"),
        ("t.metrics", ["pearson"], ".t.metrics[0]: enum"),
        ("t.metrics", "accuracy", ".t.metrics: type"),
        ("t.loss", "mse", ".t.loss: enum"),
        ("t.labels", ["one"], ".t.labels: minItems"),
        ("t.labels", [["a"], "b"], ".t.labels[0]: type"),
        ("t.dropout", 1.0, ".t.dropout: exclusiveMaximum"),
        ("t.batch_size", 2.5, ".t.batch_size: anyOf"),
        ("t.batch_size", 0, ".t.batch_size: minimum"),
        ("t.data", None, ".t.data: type"),
        ("bad name", GOOD["t"], ".bad name: propertyNames"),
    ],
)
def test_the_schema_refuses(path: str, value: Any, fault: str) -> None:
    definitions = copy.deepcopy(GOOD)
    *parents, last = path.split(".") if " " not in path else [path]
    place = definitions
    for key in parents:
        place = place[key]
    place[last] = value
    found = wrong(definitions)
    assert found and (fault in found or fault.endswith("anyOf")), found


def test_a_ranking_needs_its_group() -> None:
    task = {"type": "ranking", "data": {"hub": "a/b", "columns": {"text_a": "q", "text_b": "c"}}}
    assert wrong({"t": task}) == [".t.data.columns.group: required"]
    assert wrong({"t": {**task, "type": "regression"}}) == []


def test_every_key_of_the_schema_says_what_it_is() -> None:
    schema = task_schema()
    for section in SECTIONS:
        properties = schema["$defs"][section.__name__]["properties"]
        assert set(attribute_texts(section)) <= set(properties)
        told = [name for name, part in properties.items() if part.get("description")]
        assert section.__name__ in ("Columns",) or len(told) >= len(properties) - 2, section
    assert "λ, the factor of R_s in the loss" in schema["$defs"]["SmartSettings"]["properties"]["weight"]["description"]


def test_a_proposed_definition_names_the_schema_and_fits_it(tmp_path: Path) -> None:
    rows = [{"text": f"it is number {n}", "label": "even" if n % 2 else "odd"} for n in range(20)]
    proposed = propose(write_jsonl(tmp_path / "rows.jsonl", rows))
    first = proposed.splitlines()[0]
    assert first == f"# yaml-language-server: $schema={ROOT / 'task_defs' / SCHEMA_FILE}"
    (tmp_path / "t.yml").write_text(proposed)
    assert wrong(read_yaml(tmp_path / "t.yml")[0].data) == []


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function=$(complete -p run-mtl | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" run-mtl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("shtab")
    path = tmp_path_factory.mktemp("completion") / "run-mtl.bash"
    words = [sys.executable, str(ROOT / "run_mtl.py"), "completion", "bash"]
    path.write_text(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return path


def completed(script: Path, folder: Path, *words: str) -> set[str]:
    command = ["bash", "-c", COMPLETE, "bash", str(script), "run-mtl", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return set(done.stdout.split())


def test_bash_completes_commands_flags_choices_and_files(bash_script: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.yml").touch()
    (tmp_path / "runs").mkdir()
    for words in (["compare", "ta"], ["report", "runs", "--output", "ta"]):
        assert completed(bash_script, tmp_path, *words) == {"tasks.yml"}
    assert completed(bash_script, tmp_path, "") >= set(COMMANDS)
    assert completed(bash_script, tmp_path, "ex") == {"export"}
    assert {"--encoder", "--output", "--quiet", "--no-smart"} <= completed(bash_script, tmp_path, "train", "--")
    assert completed(bash_script, tmp_path, "evaluate", "--weights", "") == {"best", "final", "teacher"}
    assert completed(bash_script, tmp_path, "train", "ta") == {"tasks.yml"}
    assert completed(bash_script, tmp_path, "train", "--output", "") == {"runs"}
    assert completed(bash_script, tmp_path, "completion", "z") == {"zsh"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell, "--program", "mtl"]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS) and "learning-rate" in script
