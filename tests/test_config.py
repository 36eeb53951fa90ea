"""The order in which settings win, and that what is written out is read back equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl.config import Run, RunConfig, command_line, dump_run, dump_tasks, read_run_config, resolve
from mtl.definitions import complete, read_task_defs
from mtl.errors import UserError
from mtl.plain_data import dump_yaml, parse_yaml
from mtl.presets import PRESETS
from mtl.settings import Sourced, check
from mtl.taskdef import TaskDef

NOTHING = Sourced()

TASKS = """\
a:
  type: classification
  data: {hub: owner/set, columns: {text_a: x}}
  labels: ["no", "yes"]
b:
  type: regression
  data: {hub: owner/set, columns: {text_a: x, text_b: y}}
"""


def definitions(a: str = "", b: str = "") -> dict[str, Sourced]:
    """Tasks `a` and `b`, with more lines of their definitions."""
    head, tail = TASKS.split("b:\n")
    text = head + a + "b:\n" + tail + b
    source, problems = parse_yaml(text, "tasks.yml")
    assert problems == []
    return {name: source.child(name) for name in source.data}


def layer(text: str) -> Sourced:
    source, problems = parse_yaml("encoder: e\n" + text, "run.yml")
    assert problems == []
    return source


def resolved(
    defined: dict[str, Sourced], file: Sourced, overrides: Sourced = NOTHING
) -> tuple[RunConfig, dict[str, TaskDef]]:
    config, tasks, problems = resolve(defined, file, overrides)
    assert problems == []
    assert config is not None
    return config, tasks


def told(
    defined: dict[str, Sourced], file: Sourced, overrides: Sourced = NOTHING, names: tuple[str, ...] = ()
) -> list[str]:
    return [str(problem) for problem in resolve(defined, file, overrides, names)[2]]


# Each layer alone sets the batch size to its own number; the layers are listed from the weakest to the strongest.
LAYERS: list[tuple[str, str, int]] = [
    ("file", "train: {batch_size: 101}", 101),
    ("file", "defaults: {batch_size: 102}", 102),
    ("own", "batch_size: 103", 103),
    ("file", "tasks: {a: {batch_size: 104}}", 104),
    ("overrides", "train.batch_size=105", 105),
    ("overrides", "defaults.batch_size=106", 106),
    ("overrides", "tasks.a.batch_size=107", 107),
]


@pytest.mark.parametrize("strongest", range(len(LAYERS)), ids=[text for _, text, _ in LAYERS])
def test_the_strongest_layer_wins(strongest: int) -> None:
    present = LAYERS[: strongest + 1]
    own = "".join(f"  {text}\n" for where, text, _ in present if where == "own")
    file = layer("\n".join(text for where, text, _ in present if where == "file"))
    # Typed from the narrowest to the widest key: the order of words does not matter, only the key does.
    overrides = command_line({}, [text for where, text, _ in reversed(present) if where == "overrides"])
    _, tasks = resolved(definitions(a=own), file, overrides)
    assert tasks["a"].batch_size == LAYERS[strongest][2]
    # The other task is reached by the layers that are not of task a alone.
    general = [value for where, text, value in present if where != "own" and not text.startswith("tasks")]
    assert tasks["b"].batch_size == general[-1]


def test_the_built_in_default_is_weakest() -> None:
    _, tasks = resolved(definitions(), layer(""))
    assert (tasks["a"].batch_size, tasks["a"].learning_rate, tasks["a"].max_length) == (32, 5e-5, 512)


def test_all_three_shared_keys_reach_the_tasks_from_flags() -> None:
    flags = {
        "train.batch_size": ("--batch-size", 8),
        "train.learning_rate": ("--learning-rate", 1e-3),
        "train.max_length": ("--max-length", 64),
        "train.epochs": ("--epochs", None),
    }
    own = "  batch_size: 4\n  learning_rate: 1.0\n  max_length: 16\n"
    config, tasks = resolved(definitions(a=own), layer(""), command_line(flags, []))
    for task in tasks.values():
        assert (task.batch_size, task.learning_rate, task.max_length) == (8, 1e-3, 64)
    assert config.train.epochs == 5


def test_sections_merge_key_by_key() -> None:
    file = layer("defaults: {smart: {weight: 2.0, norm: l2}}\ntasks: {a: {smart: {epsilon: 0.5}}}")
    overrides = command_line({}, ["defaults.smart.steps=3", "tasks.b.smart.weight=7"])
    _, tasks = resolved(definitions(a="  smart: {weight: 5.0}\n"), file, overrides)
    a, b = tasks["a"].smart, tasks["b"].smart
    assert (a.weight, a.norm, a.epsilon, a.steps) == (5.0, "l2", 0.5, 3)
    assert (b.weight, b.norm, b.epsilon, b.steps) == (7.0, "l2", 0.01, 3)
    assert tasks["a"].labels == ["no", "yes"]


@pytest.mark.parametrize(
    ("flag", "key", "value", "cleared", "in_file"),
    [
        ("--epochs", "train.epochs", 2, "max_steps", "max_steps: 50"),
        ("--train-size", "train.train_size", 10, "train_fraction", "train_fraction: 0.5"),
        ("--train-fraction", "train.train_fraction", 0.1, "train_size", "train_size: 9"),
    ],
)
def test_typing_one_of_two_exclusive_settings_clears_the_other(
    flag: str, key: str, value: Any, cleared: str, in_file: str
) -> None:
    file = layer(f"train: {{{in_file}}}")
    assert getattr(resolved(definitions(), file)[0].train, cleared) is not None
    config, _ = resolved(definitions(), file, command_line({key: (flag, value)}, []))
    assert getattr(config.train, cleared) is None
    assert getattr(config.train, key.removeprefix("train.")) == value


@pytest.mark.parametrize("size", ["train_size=10", "train_fraction=0.1"])
def test_a_typed_size_of_each_task_wins_over_a_file_s_sizes_of_single_tasks(size: str) -> None:
    file = layer("train: {task_sizes: {a: 5, b: 6}}")
    config, _ = resolved(definitions(), file, command_line({}, [f"train.{size}", "train.task_sizes.a=7"]))
    assert config.train.task_sizes == {"a": 7}
    same = layer(f"train: {{{size.replace('=', ': ')}, task_sizes: {{a: 5}}}}")
    assert resolved(definitions(), same)[0].train.task_sizes == {"a": 5}, "within one layer the narrower wins"


@pytest.mark.parametrize("beta", ["beta1", "beta2"])
def test_a_momentum_of_one_never_moves(beta: str) -> None:
    assert told(definitions(), layer(""), command_line({}, [f"optimizer.{beta}=1.0"])) == [
        f"--set optimizer.{beta}: optimizer.{beta} is the number 1.0; expected less than 1"
    ]


def test_typed_rows_of_a_batch_win_over_tokens_that_are_not_typed() -> None:
    own, file = definitions(a="  batch_tokens: 64\n"), layer("defaults: {batch_tokens: 128}")
    rows = {"train.batch_size": ("--batch-size", 4)}

    def sizes(*words: str, flags: dict[str, tuple[str, Any]] = rows) -> list[tuple[int, int | None]]:
        tasks = resolved(own, file, command_line(flags, list(words)))[1]
        return [(task.batch_size, task.batch_tokens) for task in tasks.values()]

    assert sizes(flags={}) == [(32, 64), (32, 128)]
    assert sizes() == [(4, None), (4, None)]
    assert sizes("tasks.b.batch_tokens=99") == [(4, None), (4, 99)], "the narrower of what is given there"
    assert sizes("tasks.b.batch_size=5", flags={}) == [(32, 64), (5, None)]
    assert sizes("defaults.batch_tokens=77") == [(4, 77), (4, 77)]
    again = resolved(own, layer("train: {batch_size: 8}\ndefaults: {batch_tokens: 128}"))[1]
    assert again["b"].batch_tokens == 128, "within one file both may stand, and tokens win"
    for_one = resolved(own, layer("tasks: {a: {batch_size: 8}}"))[1]["a"]
    assert (for_one.batch_size, for_one.batch_tokens) == (8, None), "over the definition"
    for section, outer in (("  adapt: {batch_size: 8}\n", ""), ("", "tasks: {a: {adapt: {batch_size: 8}}}")):
        adapted = resolved(definitions(a="  batch_tokens: 64\n" + section), layer(f"phase: adapt\n{outer}"))[1]["a"]
        assert (adapted.batch_size, adapted.batch_tokens) == (8, None), "what differs in adaptation"
        assert adapted.adapt == {"batch_size": 8}
    defined = resolved(definitions(a="  batch_size: 16\n"), file)[1]["a"]
    assert (defined.batch_size, defined.batch_tokens) == (16, None), "a definition over the defaults of every task"


def test_a_typed_number_of_steps_wins_over_a_file_s_epochs() -> None:
    overrides = command_line({"train.max_steps": ("--max-steps", 7)}, [])
    config, _ = resolved(definitions(), layer("train: {epochs: 3}"), overrides)
    assert (config.train.epochs, config.train.max_steps) == (3, 7)


TWO = "train.max_steps cannot be combined with train.epochs"
CONTRADICTIONS: list[tuple[dict[str, tuple[str, Any]], list[str], str]] = [
    (
        {"train.max_steps": ("--max-steps", 3)},
        ["train.epochs=2"],
        f"--max-steps: {TWO} (--set train.epochs); remove one",
    ),
    ({"train.epochs": ("--epochs", 3)}, ["train={max_steps: 2}"], f"--set train: {TWO} (--epochs); remove one of them"),
    ({}, ["train={epochs: 1, max_steps: 2}"], f"--set train: {TWO}; remove one of them"),
    (
        {"train.train_size": ("--train-size", 10)},
        ["train.train_fraction=0.5"],
        "--train-size: train.train_size cannot be combined with train.train_fraction (--set train.train_fraction)",
    ),
    (
        {"train.smart": ("--no-smart", False)},
        ["train.smart=true"],
        "--no-smart: cannot be combined with --set train.smart; remove one of them",
    ),
    (
        {"train.proximal": ("--no-proximal", False)},
        ["train={proximal: true}"],
        "--no-proximal: cannot be combined with --set",
    ),
]


@pytest.mark.parametrize(("flags", "sets", "message"), CONTRADICTIONS)
def test_words_that_exclude_each_other_are_refused(
    flags: dict[str, tuple[str, Any]], sets: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        command_line(flags, sets)
    (problem,) = caught.value.problems
    assert str(problem).startswith(message)


def test_words_that_agree_are_taken() -> None:
    off = {"train.smart": ("--no-smart", False), "train.max_steps": ("--max-steps", 3)}
    overrides = command_line(off, ["train.smart=false", "train.epochs=null", "train.max_steps=4"])
    assert overrides.data["train"] == {"smart": False, "max_steps": 4, "epochs": None}


ADAPT = "  weight: 2.0\n  adapt: {weight: 3.0, smart: {weight: 4.0}}\n"


def test_adapt_sections_count_in_adaptation_only() -> None:
    file = layer("phase: train\ndefaults: {adapt: {dropout: 0.3, weight: 9.0}}")
    _, tasks = resolved(definitions(a=ADAPT), file)
    assert (tasks["a"].weight, tasks["a"].smart.weight, tasks["a"].dropout) == (2.0, 1.0, 0.1)
    file = layer("phase: adapt\ndefaults: {adapt: {dropout: 0.3, weight: 9.0}}")
    _, tasks = resolved(definitions(a=ADAPT), file)
    assert (tasks["a"].weight, tasks["a"].smart.weight, tasks["a"].dropout) == (3.0, 4.0, 0.3)
    assert (tasks["b"].weight, tasks["b"].smart.weight, tasks["b"].dropout) == (9.0, 1.0, 0.3)


def test_a_file_s_adapt_section_of_one_task_wins_over_the_task_s_own() -> None:
    _, tasks = resolved(definitions(a=ADAPT), layer("phase: adapt\ntasks: {a: {adapt: {weight: 5.0}}}"))
    assert (tasks["a"].weight, tasks["a"].smart.weight) == (5.0, 4.0)


def test_typed_words_win_over_adapt_sections() -> None:
    file = layer("phase: adapt")
    _, tasks = resolved(definitions(a=ADAPT), file, command_line({}, ["tasks.a.smart.weight=6", "defaults.weight=7"]))
    assert (tasks["a"].weight, tasks["a"].smart.weight) == (7.0, 6.0)


def test_typed_adapt_keys_count_in_adaptation() -> None:
    overrides = command_line({}, ["tasks.a.adapt.smart.weight=8"])
    _, tasks = resolved(definitions(a=ADAPT), layer("phase: adapt"), overrides)
    assert (tasks["a"].weight, tasks["a"].smart.weight) == (3.0, 8.0)
    _, tasks = resolved(definitions(a=ADAPT), layer(""), overrides)
    assert (tasks["a"].weight, tasks["a"].smart.weight) == (2.0, 1.0)


def test_values_of_set_are_read_as_yaml() -> None:
    words = [
        "train.learning_rate=1e-3",
        "optimizer.name=radam",
        "tasks.a.metrics=[f1, accuracy]",
        "data_root=",
        "encoder=x=y",
    ]
    overrides = command_line({}, words)
    assert overrides.data == {
        "train": {"learning_rate": 1e-3},
        "optimizer": {"name": "radam"},
        "tasks": {"a": {"metrics": ["f1", "accuracy"]}},
        "data_root": None,
        "encoder": "x=y",
    }
    assert overrides.place(("optimizer", "name")) == "--set optimizer.name"


def test_set_comes_after_flags() -> None:
    overrides = command_line({"train.seed": ("--seed", 1)}, ["train.seed=2"])
    assert overrides.data == {"train": {"seed": 2}}
    assert overrides.place(("train", "seed")) == "--set train.seed"


def test_bad_words_of_set_are_told_together() -> None:
    with pytest.raises(UserError) as caught:
        command_line({}, ["train.seed", "=3", "a..b=1", "x=[1", "y=!!python/name:os.system"])
    told = [str(problem) for problem in caught.value.problems]
    expected = "expected KEY=VALUE, such as train.max_steps=100"
    assert told[:3] == [f"--set {word}: {expected}" for word in ("train.seed", "=3", "a..b=1")]
    assert told[3].startswith("--set x:")
    assert told[4].startswith("--set y:1: the tag ")


UNKNOWN = [
    ("trian.epochs=3", "--set trian.epochs: unknown key 'trian'; allowed: ", "; did you mean 'train'?"),
    ("train.epocs=3", "--set train.epocs: unknown key 'train.epocs'; allowed: ", "; did you mean 'epochs'?"),
    ("sampling.stratgy=sqrt", "--set sampling.stratgy: unknown key 'sampling.stratgy'", "; did you mean 'strategy'?"),
    ("sampling.strategy=sqr", "--set sampling.strategy: sampling.strategy is the text 'sqr'", "; did you mean 'sqrt'?"),
    (
        "defaults.smart.wieght=3",
        "--set defaults.smart.wieght: unknown key 'defaults.smart.wieght'",
        "; did you mean 'weight'?",
    ),
    ("defaults.adapt=3", "--set defaults.adapt: defaults.adapt is the number 3", "; expected a mapping"),
    ("tasks.a.smart.wieght=3", "--set tasks.a.smart.wieght: unknown key 'a.smart.wieght'", "; did you mean 'weight'?"),
    (
        "tasks.aa.weight=3",
        "--set tasks.aa.weight: tasks.aa: there is no such task; defined are: a, b",
        "; did you mean 'a'?",
    ),
    ("train.epochs=many", "--set train.epochs: train.epochs is the text 'many'", "; expected a whole number"),
    ("train.batch_size=0", "--set train.batch_size: train.batch_size is the number 0", "at least 1"),
]


@pytest.mark.parametrize(("word", "start", "end"), UNKNOWN, ids=[word for word, _, _ in UNKNOWN])
def test_a_bad_setting_is_told_once_with_the_nearest_name(word: str, start: str, end: str) -> None:
    problems = told(definitions(), layer(""), command_line({}, [word]))
    assert len(problems) == 1
    assert problems[0].startswith(start)
    assert problems[0].endswith(end)


def test_faults_of_all_layers_are_told_together() -> None:
    file = layer("train: {sede: 1}\ntasks:\n  b: {loss: listwise}\n  c: {}\n")
    problems = told(definitions(a="  wieght: 3\n"), file, command_line({}, ["optimizer.name=sgd"]), ("a", "bb", "b"))
    assert sorted(problem.split(": ")[0] for problem in problems) == [
        "--set optimizer.name",
        "--tasks",
        "run.yml:2",
        "run.yml:4",
        "run.yml:5",
        "tasks.yml:5",
    ]


def test_no_encoder_is_told() -> None:
    assert [problem.message for problem in resolve(definitions(), NOTHING, NOTHING)[2]] == [
        "the key 'encoder' is missing"
    ]


def test_definition_files_of_a_configuration_are_relative_to_it(tmp_path: Path) -> None:
    path = tmp_path / "run.yml"
    path.write_text("encoder: e\ntask_defs: [tasks.yml, ../more.yml, /abs.yml, 5]\n")
    source, problems = read_run_config(path)
    files = source.data["task_defs"]
    assert problems == []
    assert [Path(file).resolve() for file in files[:3]] == [
        tmp_path / "tasks.yml",
        tmp_path.parent / "more.yml",
        Path("/abs.yml"),
    ]
    assert files[3] == 5


def test_switched_off_regularizers_have_no_weight() -> None:
    config, tasks = resolved(definitions(), layer("train: {smart: false}"))
    run = Run(config, tasks)
    assert run.as_trained("a").smart.weight == 0.0
    assert run.as_trained("a").proximal.weight == 1.0
    assert run.tasks["a"].smart.weight == 1.0
    assert run.as_trained("a").model_copy(update={"smart": run.tasks["a"].smart}) == run.tasks["a"]


def test_a_written_configuration_is_read_back_equal(tmp_path: Path) -> None:
    text = "train: {learning_rate: 1e-7, seed: 0, epochs: 2}\noptimizer: {name: adamax}\nsampling: {temperature: 1}\n"
    config, _ = resolved(definitions(), layer(text + "data_root: '010'\n"))
    path = tmp_path / "run.yml"
    path.write_text(dump_yaml(config.model_dump()), encoding="utf-8")
    source, problems = read_run_config(path)
    again, found = check(RunConfig, source)
    assert problems + found == []
    assert again == config


def test_written_tasks_are_read_back_equal(tmp_path: Path) -> None:
    own = "  smart: {epsilon: 1e-9}\n  adapt: {smart: {weight: 3.0}, learning_rate: 3e-5}\n  dropout: 0.05\n"
    _, tasks = resolved(definitions(a=own, b="  metrics: [rmse]\n"), layer(""))
    names = [
        "no",
        "010",
        "09",
        "1e-5",
        "1e5",
        "null",
        "~",
        "true",
        "2021-03-04",
        "a: b",
        "# c",
        "é",
        " x ",
        "'",
        "-",
        "😀",
    ]
    data = tasks["a"].data.model_copy(update={"unlabelled": [None, "null", -1, 0.5]})
    tasks["words"] = tasks["a"].model_copy(update={"labels": names, "data": data})
    path = tmp_path / "task_defs.yml"
    path.write_text(dump_tasks(tasks), encoding="utf-8")
    sources, problems = read_task_defs([path])
    assert problems == []
    assert list(sources) == list(tasks)
    for name, source in sources.items():
        again, found = complete(name, source)
        assert found == []
        assert again == tasks[name]


# What a run leaves behind, and what counts when it is read again: a file wins over all that no definition names.
GIVEN = [*LAYERS, ("nobody", "", 32)]
GIVEN_IDS = [text or "nobody" for _, text, _ in GIVEN]
Left = tuple[dict[str, Sourced], Sourced]


def again(left: Left, file: Sourced, overrides: Sourced = NOTHING) -> tuple[RunConfig, dict[str, TaskDef]]:
    """What a file and overrides make of the definitions that a run left."""
    config, tasks, problems = resolve(left[0], file, overrides, (), left[1].child("inherited"))
    assert problems == []
    assert config is not None
    return config, tasks


def left_by(config: RunConfig, tasks: dict[str, TaskDef]) -> Left:
    """The definitions and the configuration that a run writes, as they are read."""
    run = Run(config.model_copy(update={"defaults": {}, "tasks": {}}), tasks)
    (defined, found), (file, more) = parse_yaml(dump_tasks(tasks), "tasks.yml"), parse_yaml(dump_run(run), "run.yml")
    assert found + more == []
    return {name: defined.child(name) for name in defined.data}, file


def left(where: str, text: str, phase: str = "train") -> Left:
    """The same of a run whose task `a` got a setting from one layer."""
    file = layer(f"phase: {phase}\n" + (text if where == "file" else ""))
    overrides = command_line({}, [text] if where == "overrides" else [])
    return left_by(*resolved(definitions(a=f"  {text}\n" if where == "own" else ""), file, overrides))


@pytest.mark.parametrize(("where", "text", "value"), GIVEN, ids=GIVEN_IDS)
@pytest.mark.parametrize("said", ["train: {batch_size: 8}", "defaults: {batch_size: 8}"])
def test_a_file_wins_over_what_an_earlier_run_s_settings_gave(where: str, text: str, value: int, said: str) -> None:
    before = left(where, text)
    _, tasks = again(before, layer("phase: adapt"))
    assert tasks["a"].batch_size == value, "without a word of it, the run's value is inherited"
    _, tasks = again(before, layer(f"phase: adapt\n{said}"))
    assert tasks["a"].batch_size == (103 if where == "own" else 8)
    _, tasks = again(before, layer(f"phase: adapt\n{said}"), command_line({}, ["train.batch_size=9"]))
    assert tasks["a"].batch_size == 9


@pytest.mark.parametrize("phase", ["train", "adapt"])
@pytest.mark.parametrize(("where", "text", "value"), GIVEN, ids=GIVEN_IDS)
def test_a_run_s_files_give_the_same_run_unless_they_are_edited(where: str, text: str, value: int, phase: str) -> None:
    before = left(where, text, phase)
    defined, file = before
    same = left_by(*again(before, file))
    assert (same[0]["a"].data, same[1].data) == (defined["a"].data, file.data)
    assert defined["a"].data["batch_size"] == value
    of_train = where == "nobody" or "train" in text
    assert file.data["tasks"].get("a", {}) == ({} if of_train or where == "own" else {"batch_size": value})
    edited = Sourced({**file.data, "train": {**file.data["train"], "batch_size": 8}})
    assert again(before, edited)[1]["a"].batch_size == (8 if of_train else value)
    changed = Sourced({**defined["a"].data, "batch_size": 9, "dropout": 0.3})
    edited = Sourced({**file.data, "defaults": {"dropout": 0.4}, "tasks": {}})
    _, tasks = again(({**defined, "a": changed}, file), edited)
    assert (tasks["a"].batch_size, tasks["a"].dropout, tasks["b"].dropout) == (9, 0.3, 0.4)


def test_what_a_definition_s_preset_says_is_named_and_what_was_typed_over_it_is_not() -> None:
    own = "  smart: {preset: r3f, norm: l2}\n"
    before = left_by(*resolved(definitions(a=own), layer(""), command_line({}, ["defaults.smart.epsilon=0.5"])))
    assert again(before, before[1])[1]["a"].smart.epsilon == 0.5
    said = "defaults: {smart: {epsilon: 0.25, noise_std: 9, norm: linf, weight: 5}, adapt: {smart: {steps: 3}}}"
    _, tasks = again(before, layer(said))
    smart = tasks["a"].smart
    assert (smart.preset, smart.epsilon, smart.noise_std, smart.norm, smart.weight) == ("r3f", 0.25, 1e-5, "l2", 5.0)
    assert tasks["a"].adapt == {"smart": {"steps": 3}}


def test_sections_for_adaptation_are_inherited_or_named_like_all_else() -> None:
    overrides = command_line({}, ["tasks.a.adapt.smart.weight=8", "tasks.b.dropout=0.2"])
    before = left_by(*resolved(definitions(a=ADAPT), layer(""), overrides))
    said = "phase: adapt\ndefaults: {adapt: {weight: 9.0, smart: {weight: 6.0}}}"
    assert again(before, layer("phase: adapt"))[1]["a"].smart.weight == 8.0
    config, tasks = again(before, layer(said))
    assert (tasks["a"].weight, tasks["a"].smart.weight) == (3.0, 6.0)
    assert config.inherited["a"]["smart"]["weight"] == 6.0 and "weight" not in config.inherited["a"]
    alone = parse_yaml(dump_run(Run(config, {"a": tasks["a"]})), "run.yml")[0].data
    assert set(alone["inherited"]) == {"a"}, "a run writes of its own tasks only"


@pytest.mark.parametrize("section", ["smart: {weight: 4.0}", "smart: {preset: r3f, weight: 4.0}, weight: 3"])
def test_an_adaptation_s_files_give_the_same_where_words_won_over_its_section(section: str) -> None:
    own = definitions(a=f"  adapt: {{{section}}}\n")
    overrides = command_line({}, ["tasks.a.smart={weight: 7.0, epsilon: 0.5}"])
    before = left_by(*resolved(own, layer("phase: adapt"), overrides))
    for file in (before[1], layer("phase: adapt")):  # the run itself, and an adaptation of it
        smart = again(before, file)[1]["a"].smart
        assert (smart.weight, smart.epsilon) == (7.0, 0.5)
    same = left_by(*again(before, before[1]))
    assert (same[0]["a"].data, same[1].data) == (before[0]["a"].data, before[1].data)
    assert told(own, layer("phase: adapt"), command_line({}, ["tasks.a.smart=5"]))[0].startswith(
        "--set tasks.a.smart: "
    )
    assert "expected a mapping" in told(definitions(a="  adapt: 5\n"), layer("phase: adapt"))[0]
    untouched = resolved(own, layer("phase: adapt"))[1]["a"]
    assert untouched.adapt == own["a"].data["adapt"] and untouched.smart.weight == 4.0


def sizes_of_batches(adapt: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    """A section with rows or tokens of a batch, or both, and such a section for adaptation."""
    own = {"batch_size": st.sampled_from([8, 16, 32]), "batch_tokens": st.sampled_from([64, 128])}
    inner = {"adapt": sizes_of_batches(adapt=False)} if adapt else {}
    return st.fixed_dictionaries({}, optional=own | inner)


@settings(max_examples=100, deadline=None)
@given(sizes_of_batches(), sizes_of_batches(), sizes_of_batches(), sizes_of_batches(), st.booleans())
def test_a_run_s_files_give_the_same_batches_whatever_layers_they_came_from(
    own: dict[str, Any], defaults: dict[str, Any], of_task: dict[str, Any], said: dict[str, Any], adapting: bool
) -> None:
    defined = definitions()
    defined["a"] = Sourced({**defined["a"].data, **own})
    phase = "adapt" if adapting else "train"
    file = Sourced({"encoder": "e", "phase": phase, "defaults": defaults, "tasks": {"a": of_task}})
    config, tasks = resolved(defined, file, Sourced({"tasks": {"a": said}}))
    before = left_by(config, tasks)
    for _ in range(2):
        found, again_tasks = again(before, before[1])
        for name, task in tasks.items():
            read = again_tasks[name]
            assert (read.batch_size, read.batch_tokens) == (task.batch_size, task.batch_tokens), name
        before = left_by(found, again_tasks)


def test_tasks_that_the_run_of_a_file_had_besides_are_no_mistake() -> None:
    _, file = left("file", "tasks: {a: {batch_size: 104}}\ntrain: {task_sizes: {a: 5}}")
    other = {"c": definitions()["b"]}
    assert told(other, file) == []
    assert len(told(other, Sourced({**file.data, "inherited": {}}))) == 2


def test_what_is_wrong_in_a_run_s_files_is_told_with_its_own_line() -> None:
    defined, file = left("own", "batch_size: 103")
    own, settled = defined["a"], file.child("inherited")

    def told_of(data: Any, said: str) -> list[str]:
        return [str(problem) for problem in resolve({"a": data}, layer(said), NOTHING, (), settled)[2]]

    edited = Sourced({**own.data, "dropout": 3}, own.places)
    assert told_of(edited, "train: {batch_size: 0}\ndefaults: {dropout: 0.4}") == [
        "run.yml:2: train.batch_size is the number 0; expected at least 1",
        f"{own.places[('dropout',)]}: a.dropout is the number 3; expected less than 1",
    ]
    assert told_of(own, "tasks: {a: {dropout: 4}}") == ["run.yml:2: a.dropout is the number 4; expected less than 1"]
    assert told_of(own, "train: {max_length: 2}") == [
        "run.yml:2: train.max_length is the number 2; expected at least 4"
    ]


WORDS = st.one_of(
    st.text(max_size=8),
    st.from_regex(r"[-+]?[0-9._eExo:-]{1,6}", fullmatch=True),
    st.sampled_from(
        ["no", "Yes", "null", "~", "", "TRUE", "<<", "=", "0o7", "1_0", ".inf", "-.nan", "12:30:45", "010"]
    ),
)


@settings(deadline=None, max_examples=150, database=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.recursive(
            WORDS | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none(), st.lists, max_leaves=5
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_plain_data_is_read_back_equal(data: dict[str, Any]) -> None:
    source, problems = parse_yaml(dump_yaml(data), "a.yml")
    assert problems == []
    assert source.data == data
    assert repr(source.data) == repr(data)


def test_preset_of_a_higher_layer_wins_over_values_of_a_lower_one() -> None:
    """A resolved definition spells every value out; a preset given later still takes effect."""
    own = {"type": "regression", "data": {"hub": "a/b", "columns": {"text_a": "t"}}}
    _, first, problems = resolve({"t": Sourced(own)}, Sourced({"encoder": "e"}), Sourced())
    resolved = Sourced(first["t"].model_dump(exclude_none=True))
    overrides = command_line({}, ["tasks.t.smart.preset=mtdnn", "tasks.t.smart.steps=2"])
    _, second, more = resolve({"t": resolved}, Sourced({"encoder": "e"}), overrides)
    assert problems == more == []
    smart = second["t"].smart
    assert (smart.scope, smart.ascent, smart.epsilon, smart.steps) == ("token", "normalized", 1.0, 2)


OWN_TASK = {"type": "regression", "data": {"hub": "a/b", "columns": {"text_a": "t"}}}
PAPER_OVER: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "a definition's preset": ({"smart": {"preset": "mtdnn"}}, {}, ["defaults.smart.preset=paper"]),
    "a definition's weight": ({"smart": {"preset": "rdrop"}}, {}, ["defaults.smart.preset=paper"]),
    "a preset that a run spelled out": (
        {"smart": {"preset": "rdrop", **PRESETS["smart"]["rdrop"]}}, {}, ["defaults.smart.preset=paper"],
    ),
    "a file's preset": ({"smart": {"preset": "paper"}}, {"defaults": {"smart": {"preset": "rdrop"}}}, []),
    "for adaptation": (
        {"smart": {"preset": "mtdnn"}, "adapt": {"smart": {"preset": "paper"}}}, {"phase": "adapt"}, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PAPER_OVER)
def test_nothing_is_left_of_a_preset_under_another(case: str) -> None:
    own, file, words = PAPER_OVER[case]
    (_, alone), (_, tasks) = (
        resolved({"t": Sourced(OWN_TASK | mine)}, Sourced({"encoder": "e"} | theirs), command_line({}, overrides))
        for mine, theirs, overrides in (({"smart": {"preset": "paper"}}, {}, []), (own, file, words))
    )
    assert tasks["t"].smart == alone["t"].smart


def test_what_is_said_beside_a_lower_preset_stays_under_a_higher_one() -> None:
    own = Sourced(OWN_TASK | {"smart": {"preset": "rdrop", "weight": 3.0}})
    _, tasks = resolved({"t": own}, Sourced({"encoder": "e"}), command_line({}, ["defaults.smart.preset=paper"]))
    assert (tasks["t"].smart.preset, tasks["t"].smart.weight) == ("paper", 3.0)
    again = Sourced(tasks["t"].model_dump(exclude_none=True))
    _, third = resolved({"t": again}, Sourced({"encoder": "e"}), command_line({}, ["defaults.smart.preset=mtdnn"]))
    _, fourth = resolved(
        {"t": Sourced(third["t"].model_dump(exclude_none=True))},
        Sourced({"encoder": "e"}),
        command_line({}, ["defaults.smart.preset=paper"]),
    )
    assert fourth["t"].smart == tasks["t"].smart
