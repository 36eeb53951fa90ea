"""The toolkit from Python: the same runs, files and predictions as by the command line, in Python's words."""

from __future__ import annotations

import itertools
import json
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from conftest import NOUNS
from transformers import AutoModel, AutoTokenizer

import mtl
from mtl.api import _checked
from mtl.cli import main
from mtl.errors import Problem
from mtl.wording import in_python, words_of

BETA = "defaults.proximal.beta_late"  # a tenth of nine steps is one: the teacher would be the student
SETTINGS = {"train": {"max_steps": 9, "batch_size": 8}, "train.learning_rate": 2e-3, "leaks": "ignore", BETA: 0.9}
FLAGS = ["--max-steps", "9", "--batch-size", "8", "--learning-rate", "2e-3", "--leaks", "ignore"]
FLAGS += ["--set", f"{BETA}=0.9"]


@pytest.fixture(scope="module")
def trained(corpus: Path, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> mtl.Trained:
    return mtl.train(corpus, encoder=str(encoder_dir), output=tmp_path_factory.mktemp("api") / "run", settings=SETTINGS)


@pytest.fixture(scope="module")
def model(trained: mtl.Trained) -> mtl.Model:
    return trained.load()


def rows(corpus: Path, task: str) -> list[dict[str, Any]]:
    lines = (corpus.parent / task / "validation.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def texts_of(corpus: Path, task: str) -> list[Any]:
    names = ("text",) if task == "mood" else ("first", "second")
    found = rows(corpus, task)
    if task == "answer":
        queries = [list(group) for _, group in itertools.groupby(found, lambda row: row["id"])]
        return [(rows[0]["question"], [row["candidate"] for row in rows]) for rows in queries]
    return [row[names[0]] for row in found] if len(names) == 1 else [tuple(row[n] for n in names) for row in found]


def predicted(run: Path, task: str, corpus: Path, folder: Path) -> list[dict[str, Any]]:
    output = folder / f"{task}.jsonl"
    file = corpus.parent / task / "validation.jsonl"
    assert main(["predict", str(run), "--task", task, "--input", str(file), "--output", str(output)]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_importing_is_cheap() -> None:
    code = "import sys, mtl; assert dir(mtl) and mtl.UserError; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "numpy", "pydantic", "mtl.api"} & set(loaded)
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        mtl.trian  # noqa: B018


def test_a_run_from_python_is_the_run_of_the_command_line(
    trained: mtl.Trained, corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    words = ["train", str(corpus), "--encoder", str(encoder_dir), "--output", str(tmp_path / "run"), *FLAGS]
    assert main(words) == 0
    for name in ("metrics.jsonl", "run.yml", "task_defs.yml", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (trained.path / name).read_bytes(), name
    assert trained.results == json.loads((trained.path / "results.json").read_text())
    command = [json.loads((run / "provenance.json").read_text())["command"] for run in (trained.path, tmp_path / "run")]
    assert command == [None, ["run_mtl.py", *words]]
    assert main(["report", str(trained.path), "--output", str(tmp_path / "report.html")]) == 0


def test_definitions_may_be_data(trained: mtl.Trained, corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    definitions = yaml.safe_load(corpus.read_text())
    for definition in definitions.values():
        files = definition["data"]["files"]
        definition["data"]["files"] = {split: corpus.parent / path for split, path in files.items()}
        definition["metrics"] = tuple(definition["metrics"])
    definitions["mood"]["dropout"] = np.float64(0.1)
    again = mtl.train(definitions, encoder=str(encoder_dir), output=tmp_path / "run", settings=SETTINGS)
    assert (again.path / "task_defs.yml").read_bytes() == (trained.path / "task_defs.yml").read_bytes()
    assert again.results == trained.results


def test_files_in_data_are_relative_to_the_working_directory(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus.parent)
    mood = {"mood": yaml.safe_load(corpus.read_text())["mood"]}
    run = mtl.train([mood], encoder=str(encoder_dir), output=tmp_path, settings={"train.max_steps": 1})
    assert list(run.results["tasks"]) == ["mood"]


def test_nothing_is_printed_unless_asked_for(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"encoder": str(encoder_dir), "settings": {"train.max_steps": 3}}
    silent = mtl.train(corpus, output=tmp_path / "silent", **options)
    assert capfd.readouterr() == ("", "")
    assert silent.warnings
    silent.load().predict("mood", ["The film was great."])
    assert capfd.readouterr() == ("", "")
    mtl.train(corpus, output=tmp_path / "verbose", verbose=True, **options)
    printed = capfd.readouterr().out
    assert "3 steps; an epoch is" in printed and "best/mood" in printed
    assert "note: settings['leaks'] = 'drop' leaves such training rows out, settings['leaks'] = 'ignore' " in printed
    assert not re.search("--[a-z]", printed)
    assert all(f"warning: {warning}\n" in printed for warning in silent.warnings)


def test_what_is_wrong_is_one_error_in_pythons_words(
    corpus: Path, encoder_dir: Path, tmp_path: Path, trained: mtl.Trained
) -> None:
    definitions = {
        "mood": {"type": "clasification", "lables": ["a", "b"], "data": {"hub": "a/b", "columns": {"text_a": {1, 2}}}},
        "bad name": {},
        "empty": None,
        5: {},
    }
    settings = {"train.max_stepps": 5, "train": {"precision": "fp8"}}
    with pytest.raises(mtl.UserError) as caught:
        mtl.train(
            definitions,  # type: ignore[arg-type]
            encoder="./nowhere",
            output=trained.path,
            settings=settings,
            data_root=tmp_path / "no",
        )
    told = str(caught.value)
    for part in (
        "task_defs: mood.type is the text 'clasification'; allowed: classification, regression, ranking; did you mean",
        "task_defs: unknown key 'mood.lables'; allowed: ",
        "did you mean 'labels'?",
        "task_defs: mood.data.columns.text_a is of the type set; expected text, a number",
        "task_defs: the task name 'bad name' may contain",
        "task_defs: the task 'empty' is nothing; expected a mapping",
        "task_defs: the key 5 of the mapping is not text",
        "settings['train.max_stepps']: unknown key 'train.max_stepps'",
        "settings['train']: train.precision is the text 'fp8'; allowed: fp32, bf16, fp16",
        "encoder: './nowhere': there is no directory nowhere",
        f"output: {trained.path} holds a run; resume=True continues it, overwrite=True replaces it",
        "data_root: there is no directory",
    ):
        assert part in told, (part, told)
    assert "--" not in told.replace("/--", "")
    with pytest.raises(mtl.UserError, match=r"settings\['a..b'\]: expected a dotted key"):
        mtl.train(corpus, output=tmp_path / "x", settings={"a..b": 1})
    two = r"settings\['train.max_steps'\]: train.max_steps cannot be combined with train.epochs \(settings\['train.ep"
    with pytest.raises(mtl.UserError, match=two):
        mtl.train(corpus, output=tmp_path / "x", settings={"train.max_steps": 1, "train.epochs": 3})
    with pytest.raises(mtl.UserError, match=r"^overwrite: cannot be combined with resume=True; remove one of them"):
        mtl.train(corpus, output=trained.path, resume=True, overwrite=True)
    assert (trained.path / "results.json").is_file()
    with pytest.raises(mtl.UserError, match=r"^settings: is of the type list; expected a mapping, such as \{'train"):
        mtl.train(corpus, output=tmp_path / "x", settings=["a"])  # type: ignore[arg-type]
    with pytest.raises(mtl.UserError, match=r"^baselines: trains each task of several alone"):
        mtl.train(corpus, output=tmp_path / "x", encoder=str(encoder_dir), tasks=["mood"], baselines=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("continue it with --resume", "continue it with resume=True"),
        (
            "trained with --no-smart; --proximal",
            "trained with settings['train.smart'] = False; settings['train.proximal']",
        ),
        (
            "use --precision fp32 or --no-proximal",
            "use settings['train.precision'] = 'fp32' or settings['train.proximal'] = False",
        ),
        ("a lower --learning-rate", "a lower settings['train.learning_rate']"),
        ("runs/one--output/best, --head drop", "runs/one--output/best, head drop"),
        ("--use_fsdp --no-such ----", "--use_fsdp --no-such ----"),
    ],
)
def test_flags_are_told_in_pythons_words(words: str, told: str) -> None:
    assert in_python(words) == told
    for error in (mtl.UserError.of("", words), mtl.NonFiniteError(words)):
        with pytest.raises(type(error), match=f"^{re.escape(told)}$"), words_of(None):
            raise error
        with pytest.raises(type(error), match=f"^{re.escape(words)}$"), words_of(["train"]):
            raise error


def test_the_command_line_keeps_its_own_words(
    trained: mtl.Trained, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(corpus), "--encoder", "./nowhere", "--output", str(trained.path)]) == 2
    error = capsys.readouterr().err
    assert "--encoder: './nowhere'" in error and "--resume continues it, --overwrite replaces it" in error


def test_errors_reach_another_process_whole() -> None:
    problems = [Problem("tasks.yml:3", "is wrong"), Problem("--output", "is a file")]
    error = pickle.loads(pickle.dumps(mtl.UserError(problems)))
    assert type(error) is mtl.UserError and error.problems == problems
    assert str(error) == "tasks.yml:3: is wrong\n--output: is a file"
    stopped = pickle.loads(pickle.dumps(mtl.Interrupted(15, "stopped by SIGTERM after step 3")))
    assert type(stopped) is mtl.Interrupted
    assert (stopped.signal_number, str(stopped)) == (15, "stopped by SIGTERM after step 3")


@pytest.mark.parametrize("task", ["mood", "strength", "answer"])
def test_predictions_are_those_of_the_command_line(
    task: str, model: mtl.Model, trained: mtl.Trained, corpus: Path, tmp_path: Path
) -> None:
    expected = predicted(trained.path, task, corpus, tmp_path)
    found = model.predict(task, texts_of(corpus, task))
    assert [list(record) for record in found] == [list(record) for record in expected]
    for one, other in zip(found, expected, strict=True):
        for key, value in other.items():
            assert one[key] == (value if isinstance(value, (str, int)) else pytest.approx(value, abs=1e-6)), key


def test_a_query_with_its_candidates_is_ranked_by_itself(model: mtl.Model) -> None:
    candidates = ["because the film was grey", "perhaps the film was grey", "since the coat was plain"]
    listed = model.predict("answer", [("why is it?", candidates), ("why is it?", candidates[:2])])
    assert [record["row"] for record in listed] == [0, 1, 2, 3, 4]
    assert sorted(record["rank"] for record in listed[:3]) == [1, 2, 3]
    assert sorted(record["rank"] for record in listed[3:]) == [1, 2]
    pairs = model.predict("answer", [("why is it?", candidate) for candidate in candidates])
    assert [record["rank"] for record in pairs] == [record["rank"] for record in listed[:3]]
    np.testing.assert_allclose([r["score"] for r in pairs], [r["score"] for r in listed[:3]], atol=1e-6)
    some = model.predict("answer", [("why is it?", []), ("why is it?", candidates[:2]), ("who?", ())])
    assert [(r["row"], r["rank"]) for r in some] == [(row, r["rank"]) for row, r in enumerate(listed[3:])]
    assert model.predict("answer", [("why is it?", [])]) == []


@pytest.mark.parametrize(
    ("task", "texts", "told"),
    [
        ("mood", "one text", "texts: is one text; expected a list of texts"),
        ("mood", ["fine", 5, None], r"texts\[1\]: is 5; expected text\ntexts\[2\]: is None; expected text"),
        ("mood", [("a", "b")], r"texts\[0\]: is \('a', 'b'\); expected text"),
        ("strength", ["alone"], r"texts\[0\]: is 'alone'; expected \(text, text\)"),
        ("strength", [("a", ["b"])], r"expected \(text, text\)"),
        ("strength", [("a", None)], r"expected \(text, text\)"),
        ("answer", [(5, [])], r"expected \(query, candidate\) or \(query, \[candidate, …\]\)"),
        ("answer", [("q", ["a", 3])], r"expected \(query, candidate\)"),
        ("mod", ["a"], "task: there is no task 'mod'; loaded are: mood, strength, answer; did you mean 'mood'?"),
        ("mood", [1] * 9, "texts: 4 more like these"),
        ("mood", {"text": ["a"]}, "texts: is a table; expected a list of texts, such as one of its columns"),
        ("mood", pa.table({"text": ["a"]}).to_pandas(), "texts: is a table"),
        ("mood", {"a", "b"}, "texts: is a set, which has no order"),
        ("mood", None, "texts: is None; expected a list of texts"),
        (["mood"], ["a"], r"task: there is no task \['mood'\]; loaded are"),
    ],
)
def test_texts_of_another_shape_are_told(task: str, texts: Any, told: str, model: mtl.Model) -> None:
    with pytest.raises(mtl.UserError, match=told):
        model.predict(task, texts)


@pytest.mark.parametrize("texts", [{"text": ["a"]}, {"a"}, 5, "a"])
def test_what_is_no_list_of_texts_is_not_embedded(texts: Any, model: mtl.Model) -> None:
    with pytest.raises(mtl.UserError, match="expected a list of texts"):
        model.embed(texts)


def test_threads_share_a_model(model: mtl.Model) -> None:
    """Truncation is a state of the tokenizer: long texts of one thread, short ones of another."""
    texts = [[f"{word} " * 90 for word in NOUNS], NOUNS]
    alone = [model.predict("mood", each) for each in texts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda turn: model.predict("mood", texts[turn % 2]), range(60)))
    assert found == [alone[turn % 2] for turn in range(60)]


def test_no_texts_give_nothing(model: mtl.Model) -> None:
    assert model.predict("mood", []) == []
    assert model.embed([]).shape == (0, 32)


def test_embeddings_are_means_over_real_tokens_in_the_order_of_the_texts(
    model: mtl.Model, trained: mtl.Trained, corpus: Path
) -> None:
    texts = [*texts_of(corpus, "mood"), "a", "", "the film was great and the book was awful " * 20]
    found = model.embed(texts)
    encoder, tokenizer = (kind.from_pretrained(trained.path / "model") for kind in (AutoModel, AutoTokenizer))
    with torch.inference_mode():  # one by one, so that there is no padding
        for text, vector in zip(texts, found, strict=True):
            inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
            expected = encoder.eval()(**inputs).last_hidden_state[0].mean(dim=0)
            np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)
    assert found.dtype == np.float32 and found.shape == (len(texts), 32)


def test_embeddings_of_a_task_are_those_of_its_own_step(model: mtl.Model, trained: mtl.Trained) -> None:
    texts = ["The film was great.", "why?", "the film was great and the book was awful " * 10]
    alone = mtl.load(trained.path / "best" / "mood")
    np.testing.assert_allclose(model.embed(texts, task="mood"), alone.embed(texts), atol=1e-6)
    final = trained.load("final")
    np.testing.assert_allclose(model.embed(texts), final.embed(texts), atol=1e-6)
    one = mtl.load(trained.path, tasks=["mood"])
    np.testing.assert_allclose(one.embed(texts), final.embed(texts), atol=1e-6, err_msg="also with one task loaded")
    assert not np.allclose(trained.load("teacher").embed(texts), final.embed(texts), atol=1e-4)
    with pytest.raises(mtl.UserError, match=r"texts\[1\]: contains half a character, \\ud83d"):
        model.embed(["fine", "cut \ud83d"])
    with pytest.raises(mtl.UserError, match=r"texts\[1\]: is None; expected text"):
        model.embed(["a", None])  # type: ignore[list-item]


def test_loading_tells_what_is_not_there(trained: mtl.Trained, tmp_path: Path) -> None:
    with pytest.raises(mtl.UserError, match=r"weights: is 'bset'; allowed: best, final, teacher; did you mean 'best'?"):
        mtl.load(trained.path, "bset")
    with pytest.raises(mtl.UserError, match=r"mood: is an export: .* not the teacher ones"):
        mtl.load(trained.path / "best" / "mood", "teacher")
    with pytest.raises(mtl.UserError, match=r"task: .* has no task 'mod'; .* did you mean 'mood'?"):
        mtl.load(trained.path, tasks=["mod"])
    with pytest.raises(mtl.UserError, match="is neither a run"):
        mtl.load(tmp_path)


def test_adapt_resume_and_overwrite(trained: mtl.Trained, tmp_path: Path) -> None:
    settings = {"train.max_steps": 2}
    adapted = mtl.adapt(trained.path, task="mood", output=tmp_path / "new", head="fresh", settings=settings)
    assert "head: fresh" in (adapted.path / "run.yml").read_text()
    assert list(adapted.load().tasks) == ["mood"]
    again = mtl.adapt(trained.path, task="mood", output=tmp_path / "new", resume=True)
    assert again.results == adapted.results
    with pytest.raises(mtl.UserError, match="resume=True continues it"):
        mtl.adapt(trained.path, task="mood", output=tmp_path / "new")
    mtl.adapt(trained.path, task="mood", output=tmp_path / "new", overwrite=True, settings=settings)
    with pytest.raises(mtl.UserError, match="define others with task_defs FILE"):
        mtl.adapt(trained.path, task="new", output=tmp_path / "newer")


def test_arrays_and_their_scalars_are_taken(
    model: mtl.Model, trained: mtl.Trained, corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    texts = texts_of(corpus, "mood")
    series: Any = pytest.importorskip("pandas").Series(texts, index=range(9, 9 + len(texts)))
    arrays: list[Any] = [np.array(texts), np.array(texts, dtype=object), series]
    for array in arrays:
        np.testing.assert_array_equal(model.embed(array), model.embed(texts))
        assert model.predict("mood", array) == model.predict("mood", texts)
        assert model.embed(array[:0]).shape == (0, 32)
    scalars = {"train.max_steps": np.int64(1), "train.smart": np.bool_(False), "train": {"seed": torch.tensor(7)}}
    config = mtl.train(corpus, encoder=str(encoder_dir), output=tmp_path / "run", settings=scalars).path / "run.yml"
    train = yaml.safe_load(config.read_text())["train"]
    assert (train["max_steps"], train["smart"], train["seed"]) == (1, False, 7)
    for value, name in ((np.array([1]), "ndarray"), (np.longdouble(1), "longdouble"), ({1}, "set")):
        with pytest.raises(
            mtl.UserError, match=rf"settings\['train.epochs'\]: is of the type {name}; expected text, a"
        ):
            mtl.train(corpus, encoder="e", output=tmp_path / "new", settings={"train.epochs": value})


def test_one_text_is_no_list_of_names(trained: mtl.Trained, corpus: Path, tmp_path: Path) -> None:
    expected = r"^tasks: is 'mood'; expected a list of names, such as \['mood'\]$"
    with pytest.raises(mtl.UserError, match=expected):
        mtl.train(corpus, encoder="e", output=tmp_path / "run", tasks="mood")
    with pytest.raises(mtl.UserError, match=expected):
        mtl.load(trained.path, tasks="mood")
    assert list(mtl.load(trained.path, tasks=np.array(["mood", "answer"])).tasks) == ["mood", "answer"]  # type: ignore[arg-type]


def test_adaptation_tells_that_it_does_not_search_for_leaks_either(
    trained: mtl.Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = f"note: leaks are not searched for, as in {trained.path}: --leaks warn searches for them\n"
    words = ["adapt", str(trained.path), "--task", "mood", "--max-steps", "1", "--no-smart", "--no-proximal"]
    assert main([*words, "--output", str(tmp_path / "silent")]) == 0
    assert told in capsys.readouterr().out
    assert main([*words, "--output", str(tmp_path / "chosen"), "--leaks", "ignore"]) == 0
    assert told not in capsys.readouterr().out


def test_of_several_processes_one_of_each_machine_reads_the_data_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others find in the cache what it read; without an order, all would read everything."""
    order: list[str] = []

    class Processes:
        def main_first(self, work: Any) -> Any:
            order.append("main first")
            return work()

    monkeypatch.setattr("mtl.api.PROCESSES", 2)
    monkeypatch.setattr("mtl.processes.Processes.current", Processes)
    checked: Any = object()
    assert _checked(lambda: checked) is checked and order == ["main first"]
