"""Studies as files: what is laid out of them, and that everything wrong is told together, with its line."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mtl.config import command_line, read_run_config
from mtl.errors import UserError
from mtl.ledger import run_arguments
from mtl.outcomes import gather_outcomes
from mtl.settings import Sourced
from mtl.study import Study, read_study

STUDY = """\
encoder: {encoder}
task_defs: [{corpus}]
tasks: [mood, strength]
seeds: [1, 2]
train_sizes: [20, null]
sizes: {{answer: 8}}
settings:
  train: {{epochs: 1, learning_rate: 1e-3}}
arms:
  plain:
    - phase: train
      settings: {{train: {{smart: false, proximal: false}}}}
  shared:
    - phase: train
      tasks: [mood, strength, answer]
      settings: {{defaults: {{smart: {{epsilon: 1e-4}}}}, tasks: {{mood: {{learning_rate: 3e-4}}}}}}
    - phase: adapt
      settings: {{train: {{epochs: 2}}}}
  joint:
    - {{phase: train, tasks: all}}
"""


@pytest.fixture
def text(encoder_dir: Path, corpus: Path) -> str:
    return STUDY.format(encoder=encoder_dir, corpus=corpus)


def read(text: str, folder: Path) -> Study:
    path = folder / "s.yml"
    path.write_text(text, encoding="utf-8")
    return read_study(path)


def told(text: str, folder: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(text, folder)
    return [str(problem).replace(str(folder) + "/", "") for problem in caught.value.problems]


def test_the_grid(text: str, tmp_path: Path) -> None:
    study = read(text, tmp_path)
    assert len(study.cells) == 3 * 2 * 2 * 2
    assert [cell.seed for cell in study.cells] == [1] * 12 + [2] * 12, "every arm gets its first seed first"
    # plain: 8 runs. shared: 2 sizes × 2 seeds, and 8 adaptations. joint: 2 sizes × 2 seeds, each for both tasks.
    assert len(study.nodes) == 8 + 4 + 8 + 4
    names = [node.name for node in study.nodes]
    assert len(set(names)) == len(names)
    for node in study.nodes:
        assert node.parent is None or names.index(node.parent.name) < names.index(node.name)


def test_what_each_run_gets(text: str, tmp_path: Path) -> None:
    study = read(text, tmp_path)
    cells = {(c.arm, c.task, c.size, c.seed): c.node for c in study.cells}
    plain = cells["plain", "mood", 20, 2].run
    assert (plain.config.train.seed, plain.config.train.task_sizes) == (2, {"mood": 20})
    assert plain.config.train.smart is False and plain.config.train.epochs == 1
    adapted = cells["shared", "mood", 20, 2]
    assert adapted.parent is not None
    first = adapted.parent.run
    assert first.config.train.task_sizes == {"mood": 20, "strength": 20, "answer": 8}
    assert cells["shared", "strength", 20, 2].parent is adapted.parent
    assert cells["shared", "mood", None, 2].parent is not adapted.parent
    assert adapted.run.config.phase == "adapt" and adapted.run.config.head == "reuse"
    assert adapted.run.config.train.epochs == 2
    assert adapted.run.tasks["mood"].smart.epsilon == 1e-4, "adaptation inherits what the run was trained with"
    assert first.tasks["mood"].learning_rate == 3e-4 and first.tasks["answer"].learning_rate == 1e-3
    assert cells["joint", "mood", None, 1] is cells["joint", "strength", None, 1]


def test_sizes_of_a_phase_override_the_studys(text: str, tmp_path: Path) -> None:
    tasks = "tasks: [mood, strength, answer]"
    study = read(text.replace(tasks, f"{tasks}\n      sizes: {{answer: 5}}"), tmp_path)
    sizes = [cell.node.parent.run.config.train.task_sizes for cell in study.cells if cell.node.parent is not None]
    assert len(sizes) == 8 and all(found["answer"] == 5 for found in sizes)
    phase = study.config.arms["shared"][0]
    assert study.config.sizes_of(phase) == {"answer": 5} and study.config.sizes == {"answer": 8}


def test_fingerprints_follow_what_decides(text: str, tmp_path: Path) -> None:
    def prints(changed: str) -> dict[tuple[str, str, int | None, int], str]:
        return {(c.arm, c.task, c.size, c.seed): c.node.fingerprint for c in read(changed, tmp_path).cells}

    before = prints(text)
    assert prints(text.replace("seeds: [1, 2]", "num: 0\nseeds: [2, 1]").replace("num: 0\n", "")) == before
    renamed = prints(text.replace("  plain:", "  other:"))
    assert {key: value for key, value in renamed.items() if key[0] == "other"} == {
        ("other", *key[1:]): value for key, value in before.items() if key[0] == "plain"
    }
    changed = prints(text.replace("epsilon: 1e-4", "epsilon: 1e-3"))
    assert {key[0] for key in before if before[key] != changed[key]} == {"shared"}, "the beginning decides too"
    epochs = prints(text.replace("epochs: 1", "epochs: 3"))
    assert all(before[key] != epochs[key] for key in before)
    held = prints(text + "select: holdout\nholdout_rows: 9\n")
    assert all(before[key] != held[key] for key in before)


def test_fingerprints_follow_the_data_and_not_its_place(text: str, corpus: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(corpus.parent, tmp_path / "copy"))
    elsewhere = text.replace(str(corpus), str(copied / corpus.name))

    def prints(study: Study) -> dict[tuple[str, str, int | None, int], str]:
        return {(c.arm, c.task, c.size, c.seed): c.node.fingerprint for c in study.cells}

    before = prints(read(text, tmp_path))
    assert prints(read(elsewhere, tmp_path)) == before
    shared, joint = ({(arm, "mood"), (arm, "strength")} for arm in ("shared", "joint"))
    for task, expected in (("mood", {("plain", "mood"), *shared, *joint}), ("answer", shared)):
        path = copied / task / "train.jsonl"
        kept = path.read_text(encoding="utf-8")
        path.write_text(kept.replace("he ", "his ", 1), encoding="utf-8")
        after = prints(read(elsewhere, tmp_path))
        assert {key[:2] for key in before if before[key] != after[key]} == expected, task
        path.write_text(kept, encoding="utf-8")


def test_fingerprints_know_nothing_of_how_data_is_read(text: str, tmp_path: Path) -> None:
    section = f"data_root: {tmp_path}\nsettings:\n  num_proc: 2\n"
    before, after = read(text, tmp_path), read(text.replace("settings:\n", section, 1), tmp_path)
    assert [node.fingerprint for node in before.nodes] == [node.fingerprint for node in after.nodes]
    assert all((node.run.config.num_proc, node.run.config.data_root) == (2, str(tmp_path)) for node in after.nodes)


def test_what_the_study_gives_and_keys_of_phases_are_told(text: str, tmp_path: Path) -> None:
    (problem,) = told(text.replace("settings:\n", "settings:\n  data_root: elsewhere\n", 1), tmp_path)
    assert problem.endswith("settings.data_root: the study names it for all arms")
    (problem,) = told(text.replace("- phase: train\n", "- phase: train\n      task: [mood]\n", 1), tmp_path)
    assert "unknown key 'arms.plain.0.task'; allowed: phase, settings, sizes, tasks; did you mean 'tasks'?" in problem


def test_fingerprints_know_nothing_of_telemetry(text: str, tmp_path: Path) -> None:
    section = "  telemetry: {trackers: [wandb], project: other, gradient_cosine_every: 5}\n"
    watched = text.replace("settings:\n", f"settings:\n{section}", 1)
    before, after = read(text, tmp_path), read(watched, tmp_path)
    assert [node.fingerprint for node in before.nodes] == [node.fingerprint for node in after.nodes]
    assert all(node.run.config.telemetry.project == "other" for node in after.nodes)


def test_fingerprints_know_nothing_of_a_regularizer_that_is_off(text: str, tmp_path: Path) -> None:
    def prints(settings: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        study = read(text.replace("settings:\n", f"settings:\n  defaults: {{{settings}}}\n", 1), tmp_path)
        for cell in study.cells:
            found.setdefault(cell.arm, set()).add(cell.node.fingerprint)
        return found

    before = prints("smart: {epsilon: 1e-5, unit: absolute, noise_std: 1e-5, step_size: 1e-3, dropout: independent}")
    assert prints("smart: {preset: paper}") == before, "it is the values that count"
    other = prints("smart: {preset: r3f}, proximal: {weight: 2}")
    assert other["plain"] == before["plain"] and not other["joint"] & before["joint"]


def test_arms_of_the_same_configuration_share_their_runs(text: str, tmp_path: Path) -> None:
    twin = text + "  twin: [{phase: train, settings: {train: {proximal: false, smart: false}}}]\n"
    study = read(twin, tmp_path)
    nodes = {(c.arm, c.task, c.size, c.seed): c.node for c in study.cells}
    assert nodes["twin", "mood", 20, 1] is nodes["plain", "mood", 20, 1]


def test_rows_are_held_out_of_runs_on_the_studys_tasks_alone(text: str, tmp_path: Path) -> None:
    text = text.replace("tasks: [mood, strength]\n", "tasks: [mood]\n", 1).replace(
        "[mood, strength, answer]", "[strength]"
    )
    text = text.replace(", tasks: {mood: {learning_rate: 3e-4}}", "").replace(
        "sizes: {answer: 8}", "sizes: {strength: 8}"
    )
    for select, expected in (("holdout", 0.1), ("validation", None)):
        cell = next(
            cell for cell in read(f"{text}select: {select}\nholdout_rows: 9\n", tmp_path).cells if cell.arm == "shared"
        )
        assert cell.node.parent is not None
        assert cell.node.run.config.train.holdout == expected
        assert cell.node.parent.run.config.train.holdout is None, "it is the same run for both"


def test_words_say_the_same_as_the_study(text: str, tmp_path: Path) -> None:
    study = read(text, tmp_path)
    for node in study.nodes:
        words = run_arguments(node, tmp_path / "out", tmp_path / "parent" if node.parent else None, resume=False)
        sets = [word.removeprefix("--set=") for word in words if word.startswith("--set=")]
        overrides = dict(node.overrides.data)
        encoder = overrides.pop("encoder", None)
        assert command_line({}, sets).data == overrides
        assert (encoder is None) == (words[0] == "adapt")
        assert encoder is None or words[words.index("--encoder") + 1] == encoder


def test_settings_of_one_task_leave_the_cells_of_another_alone(text: str, tmp_path: Path) -> None:
    old = text.replace(", tasks: {mood: {learning_rate: 3e-4}}", "")
    assert old != text
    new = old.replace("settings:\n", "settings:\n  tasks: {mood: {batch_size: 3}}\n", 1)
    before, after = ({(c.arm, c.task, c.size, c.seed): c.node for c in read(t, tmp_path).cells} for t in (old, new))
    for key, node in after.items():
        size = node.run.tasks["mood"].batch_size if "mood" in node.run.tasks else None
        assert size in (None, 3)
        assert key[:2] != ("plain", "strength") or node.fingerprint == before[key].fingerprint
    assert {node.run.tasks["mood"].batch_size for node in before.values() if "mood" in node.run.tasks} != {3}


def test_an_arm_s_steps_take_the_place_of_shared_epochs_and_the_other_way_round(text: str, tmp_path: Path) -> None:
    for shared, own, steps, epochs in (("epochs: 1", "max_steps: 3", 3, 5), ("max_steps: 4", "epochs: 2", None, 2)):
        study = read(text.replace("epochs: 1", shared).replace("{epochs: 2}", f"{{{own}}}"), tmp_path)
        (node, *_) = [cell.node for cell in study.cells if cell.arm == "shared"]
        assert (node.run.config.train.max_steps, node.run.config.train.epochs) == (steps, epochs)
        sets = [word.removeprefix("--set=") for word in run_arguments(node, tmp_path, tmp_path, resume=False)]
        assert command_line({}, [word for word in sets if "=" in word]).data == node.overrides.data


def test_settings_of_any_script_reach_the_run() -> None:
    settings = {"defaults": {"note": "\U0001f600 grün"}}
    node: Any = SimpleNamespace(
        overrides=Sourced({"encoder": "e", **settings}), task_defs=[], run=SimpleNamespace(tasks={"t": None})
    )
    word = run_arguments(node, Path("out"), None, resume=False)[-1]
    assert command_line({}, [word.removeprefix("--set=")]).data == settings


BROKEN = {
    "steps and epochs": (
        "{epochs: 2}",
        "{epochs: 2, max_steps: 3}",
        ["s.yml:18: train.max_steps cannot be combined with train.epochs; remove one of them"],
    ),
    "a metric left out": (
        "{epochs: 2}",
        "{epochs: 2}, tasks: {mood: {metrics: [mcc]}}",
        ["arms.shared: mood has no metric accuracy, macro_f1, by which arms are compared"],
    ),
    "a misspelt key": ("seeds: [1, 2]", "seedz: [1, 2]", ["s.yml:4: unknown key 'seedz'", "did you mean 'seeds'"]),
    "a wrong type": ("seeds: [1, 2]", "seeds: [1, x]", ["s.yml:4: seeds.1 is the text 'x'; expected a whole number"]),
    "a contrast twice": (
        "seeds: [1, 2]",
        "seeds: [1, 2]\ncontrasts: [[other, plain], [other, plain]]",
        ['s.yml:5: contrasts: ["other", "plain"] stands there twice'],
    ),
    "a seed twice": ("seeds: [1, 2]", "seeds: [1, 1]", ["s.yml:4: seeds: 1 stands there twice"]),
    "no seed": ("seeds: [1, 2]", "seeds: []", ["s.yml:4: seeds is a list;"]),
    "an unknown task": ("tasks: [mood, strength]", "tasks: [moood, strength]", ["there is no task 'moood'", "'mood'?"]),
    "an unknown size": ("answer: 8", "anser: 8", ["s.yml:6: sizes.anser: there is no task 'anser'", "'answer'?"]),
    "a size beyond the data": (
        "answer: 8",
        "answer: 8000",
        ["s.yml:6: sizes.answer: 8,000, but answer has ", " labelled training rows (null: all)"],
    ),
    "a training size beyond the data": (
        "train_sizes: [20, null]",
        "train_sizes: [20, 9999]",
        ["s.yml:5: train_sizes: 9,999, but mood has"],
    ),
    "more rows to hold out than there are": (
        "arms:\n",
        "select: holdout\nholdout_rows: 5000\narms:\n",
        ["s.yml:10: holdout_rows: 5,000 would be held out of the ", "training rows of mood; set a smaller number"],
    ),
    "settings of the wrong type": (
        "train: {epochs: 1, learning_rate: 1e-3}",
        "train: [{epochs: 1}]",
        ["train is a list; expected a mapping"],
    ),
    "an unknown size of a phase": (
        "tasks: [mood, strength, answer]",
        "tasks: [mood, strength, answer]\n      sizes: {anser: 8}",
        ["s.yml:16: arms.shared.0.sizes.anser: there is no task 'anser'", "'answer'?"],
    ),
    "a size of a phase beyond the data": (
        "tasks: [mood, strength, answer]",
        "tasks: [mood, strength, answer]\n      sizes: {answer: 8000}",
        ["s.yml:16: arms.shared.0.sizes.answer: 8,000, but answer has "],
    ),
    "a size of a task that the phase does not train": (
        "phase: adapt",
        "phase: adapt\n      sizes: {answer: 8}",
        ["s.yml:18: arms.shared.1.sizes.answer: is not among the phase's 'tasks'"],
    ),
    "a size of a studied task in a phase": (
        "tasks: [mood, strength, answer]",
        "tasks: [mood, strength, answer]\n      sizes: {mood: 8}",
        ["s.yml:16: arms.shared.0.sizes.mood: is a task of the study"],
    ),
    "sizes among the settings": (
        "{epochs: 2}",
        "{task_sizes: {mood: 2}}",
        ["s.yml:18: arms.shared.1.settings.train.task_sizes: the study's 'train_sizes'"],
    ),
    "a size twice": ("answer: 8", "mood: 8", ["s.yml:6: sizes.mood: is a task of the study"]),
    "a setting": ("learning_rate: 1e-3", "learning_rat: 1e-3", ["s.yml:8: unknown key 'train.learning_rat'"]),
    "an arm's setting": ("epsilon: 1e-4", "epsilom: 1e-4", ["s.yml:16: unknown key", "did you mean 'epsilon'"]),
    "a phase": ("phase: adapt", "phase: adopt", ["s.yml:17: arms.shared.1.phase is the text 'adopt'", "'adapt'?"]),
    "adapt first": (
        "    - {phase: train, tasks: all}",
        "    - {phase: adapt}",
        ["arms.joint.0.phase: the first phase"],
    ),
    "train again": ("phase: adapt", "phase: train", ["s.yml:17: arms.shared.1.phase: the first phase of an arm is"]),
    "tasks in adaptation": (
        "phase: adapt",
        "phase: adapt\n      tasks: [strength]",
        ["s.yml:18: arms.shared.1.tasks: adaptation is to the cell's task"],
    ),
    "an encoder in adaptation": (
        "{train: {epochs: 2}}",
        "{encoder: other}",
        ["s.yml:18: arms.shared.1.settings.encoder: adaptation starts from the phase before"],
    ),
    "the seed": ("{epochs: 2}", "{seed: 2}", ["s.yml:18: arms.shared.1.settings.train.seed: the study's 'seeds'"]),
    "code": (
        "settings:\n",
        "settings:\n  trust_remote_code: true\n",
        ["s.yml:8: settings.trust_remote_code: it"],
    ),
    "the arm's name": ("  plain:", "  ../plain:", ["s.yml:10: arms.../plain: a name may hold"]),
    "a task left out": ("tasks: all", "tasks: [mood]", ["s.yml:20: arms.joint.0.tasks: the last phase", "strength"]),
    "a contrast": (
        "arms:\n",
        "contrasts: [[joint, plan], [plain, plain]]\narms:\n",
        ["s.yml:9: contrasts.0: there is no arm 'plan'; did you mean 'plain'?", "contrasts.1: an arm does not differ"],
    ),
    "a contrast of three": ("arms:\n", "contrasts: [[joint, plain, shared]]\narms:\n", ["s.yml:9: contrasts.0"]),
    "the encoder": ("encoder: ", "encoder: /nowhere", ["s.yml:1: ", "there is no directory"]),
    "the data": ("seeds: ", "data_root: /nowhere\nseeds: ", ["there is no directory /nowhere"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_told(name: str, text: str, tmp_path: Path) -> None:
    old, new, expected = BROKEN[name]
    assert old in text
    problems = told(text.replace(old, new, 1), tmp_path)
    for part in expected:
        assert any(part in problem for problem in problems), (part, problems)


@pytest.mark.parametrize(("step", "expected"), [("last", 0.25), ("best", 0.75)])
def test_outcomes_are_of_the_step_and_rows_that_the_study_names(step: str, expected: float) -> None:
    node: Any = SimpleNamespace(fingerprint="f")
    node.chain = lambda: [node]
    study: Any = SimpleNamespace(
        cells=[SimpleNamespace(node=node, task="t")],
        tasks={"t": SimpleNamespace(metrics=["accuracy"])},
        config=SimpleNamespace(step=step, select="holdout"),
    )
    results = {
        key: {"t": {"holdout": {"accuracy": value}, "validation": {"accuracy": 9.0}}}
        for key, value in (("last", 0.25), ("tasks", 0.75))
    }
    ledger: Any = SimpleNamespace(results=lambda node: results, record=lambda node: None)
    (found,) = gather_outcomes(study, ledger, {}).values()
    assert found.metrics == {"accuracy": expected}


def test_all_is_told_together_and_once(text: str, tmp_path: Path) -> None:
    text = text.replace("learning_rate: 1e-3", "learning_rat: 1e-3").replace("epsilon: 1e-4", "epsilon: -1")
    problems = told(text, tmp_path)
    assert len(problems) == 2, problems


def test_the_files_of_the_repository_are_read(tmp_path: Path) -> None:
    """Their keys and settings, without data or encoder."""
    from conftest import ROOT

    from mtl.settings import check
    from mtl.study import StudyConfig

    paths = sorted((ROOT / "benchmarks" / "studies").glob("*.yml"))
    assert paths
    for path in paths:
        source, problems = read_run_config(path)
        assert isinstance(source, Sourced)
        config, found = check(StudyConfig, source)
        assert problems + found == [] and config is not None, path


def test_fingerprints_follow_every_section_that_results_depend_on(text: str, encoder_dir: Path, tmp_path: Path) -> None:
    before = {node.fingerprint for node in read(text, tmp_path).nodes}
    copied = shutil.copytree(encoder_dir, tmp_path / "other")
    changes = {"encoder": text.replace(f"encoder: {encoder_dir}", f"encoder: {copied}")}
    for section in (
        "optimizer: {head_factor: 1.0}",
        "schedule: {name: constant}",
        "sampling: {strategy: sqrt}",
        "evaluation: {every: 2}",
        "leaks: ignore",
    ):
        changes[section] = text.replace("settings:\n", f"settings:\n  {section}\n", 1)
    for what, changed in changes.items():
        assert not before & {node.fingerprint for node in read(changed, tmp_path).nodes}, what
    fresh = text.replace("{train: {epochs: 2}}", "{train: {epochs: 2}, head: fresh}")
    assert {n.parent is None for n in read(fresh, tmp_path).nodes if n.fingerprint not in before} == {False}


def test_adaptation_treats_leaks_as_the_phase_before(text: str, tmp_path: Path) -> None:
    ignoring = text.replace("defaults: {smart: {epsilon: 1e-4}}", "leaks: ignore, defaults: {smart: {epsilon: 1e-4}}")
    assert ignoring != text
    for cell in read(ignoring, tmp_path).cells:
        assert cell.node.run.config.leaks == ("ignore" if cell.arm == "shared" else "warn"), cell.arm
