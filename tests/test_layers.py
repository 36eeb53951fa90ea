"""The architecture is a rule: modules import only from earlier layers, lazily or not, and stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mtl"

# Data flows one way. A module may import from earlier rows, and from earlier places of its own row.
LAYERS = {
    "Base": (
        "errors",
        "launch",
        "stop",
        "files",
        "file_formats",
        "settings",
        "plain_data",
        "wording",
        "ranking_metrics",
        "metrics",
        "sampling",
        "intervals",
    ),
    "Definitions and settings": ("presets", "taskdef", "definitions", "precedence", "config", "heads", "trackers"),
    "Reading and checking data": (
        "encoder",
        "origin",
        "source",
        "checks",
        "predictions",
        "minhash",
        "leaks",
        "split_cache",
        "reading",
        "run_files",
        "preflight",
    ),
    "Tokenised data, batches and the plan": ("tokenizer", "data", "subsets", "batch", "plan", "scale"),
    "Mathematics": ("losses", "smart", "proximal", "cost", "optimizer"),
    "Model and objective": (
        "dropout",
        "native_head",
        "model",
        "random_state",
        "objective",
        "architecture",
        "precision",
        "shards",
        "processes",
        "probe",
    ),
    "Evaluation, checkpoints and display": ("machine", "evaluate", "best", "checkpoint", "state", "report", "display"),
    "Run directories": ("run_record", "run_start", "error_analysis", "baseline_comparison"),
    "Charts and the report": (
        "markup",
        "drawing",
        "charts",
        "heat_map",
        "pictures",
        "html_task",
        "html_interaction",
        "html_report",
    ),
    "Logs, exports and the training loop": (
        "run_log",
        "facts",
        "card_metadata",
        "card",
        "push",
        "trained_tasks",
        "export",
        "inference",
        "trainer",
    ),
    "Runs": ("run_setup", "remarks", "hooks", "phases", "dryrun"),
    "Commands and the Python API": (
        "describe",
        "text_encoding",
        "columns",
        "propose",
        "validate",
        "baselines",
        "predictor",
        "api",
    ),
    "Studies": (
        "paired",
        "study_config",
        "study",
        "ledger",
        "outcomes",
        "study_chart",
        "summary",
        "study_cost",
        "compare",
    ),
    "The command line": ("completion", "arguments", "cli", "__main__"),
}
ORDER = [module for layer in LAYERS.values() for module in layer]
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names = [f"mtl.{alias.name}" for alias in node.names] if node.module == "mtl" else [node.module or ""]
        found |= {name.split(".")[1] for name in names if name.startswith("mtl.")}
    return found


def test_every_module_has_a_layer() -> None:
    assert sorted(ORDER) == MODULES


def test_the_map_of_the_modules_has_their_docstrings() -> None:
    expected = ["## Modules", ""]
    expected += ["Data flows down this list: a module imports only from those above it (`tests/test_layers.py`)."]
    for title, layer in LAYERS.items():
        expected += ["", f"**{title}**", "", "| module | |", "|---|---|"]
        for module in layer:
            text = ast.get_docstring(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")))
            assert text is not None
            expected.append(f"| `{module}` | {text.splitlines()[0]} |")
    written = (PACKAGE / "README.md").read_text(encoding="utf-8")
    assert written[written.index("## Modules") :] == "\n".join([*expected, ""])


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_to_earlier_layers(module: str) -> None:
    for other in imported(PACKAGE / f"{module}.py"):
        assert ORDER.index(other) < ORDER.index(module), f"mtl.{module} imports mtl.{other}"


@pytest.mark.parametrize("module", ["losses", "smart", "proximal"])
def test_mathematics_knows_no_model(module: str) -> None:
    text = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    assert "transformers" not in text
    assert not imported(PACKAGE / f"{module}.py") & {"model", "objective", "trainer", "batch"}


def test_data_prep_imports_only_task_descriptions() -> None:
    for path in (ROOT / "data_prep").glob("*.py"):
        assert imported(path) <= {"taskdef", "definitions", "settings", "plain_data", "errors", "config"}, path.name


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 66, f"{path.name}: {node.name}"
