"""The architecture is a rule: modules import only from earlier layers, lazily or not, and stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mtl"

# Data flows one way. A module may import from earlier rows, and from earlier places of its own row.
LAYERS = (
    (
        "errors",
        "launch",
        "stop",
        "files",
        "settings",
        "plain_data",
        "wording",
        "ranking_metrics",
        "metrics",
        "sampling",
        "intervals",
    ),
    ("presets", "taskdef", "definitions", "precedence", "config", "heads", "trackers"),
    (
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
    ("tokenizer", "data", "subsets", "batch", "plan", "scale"),
    ("losses", "smart", "proximal", "cost", "optimizer"),
    (
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
    ("machine", "evaluate", "best_backup", "checkpoint", "state", "report", "display"),
    ("runrecord", "rundir", "error_analysis", "baseline_comparison"),
    ("markup", "drawing", "charts", "heat_map", "pictures", "html_task", "html_interaction", "html_report"),
    ("runlog", "facts", "card_metadata", "card", "push", "trained_tasks", "export", "inference", "trainer"),
    ("run_setup", "remarks", "hooks", "phases", "dryrun"),
    ("describe", "text_encoding", "columns", "propose", "validate", "baselines", "predictor", "api"),
    ("paired", "study_config", "study", "ledger", "outcomes", "study_chart", "summary", "study_cost", "compare"),
    ("completion", "arguments", "cli"),
    ("__main__",),
)
ORDER = [module for layer in LAYERS for module in layer]
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
