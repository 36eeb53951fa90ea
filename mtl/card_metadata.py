"""Metadata of model cards, as the Hugging Face hub reads it.

Source: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

import math
import re
from typing import Any

from mtl.encoder import HUB_ID
from mtl.facts import Facts
from mtl.taskdef import NAME, TaskDef

CONFIG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")  # names of data set configurations allowed in metadata
# Metric → its name on the hub, where the names differ.
HUB_METRICS = {"mcc": "matthews_correlation", "macro_f1": "f1", "pearson": "pearsonr", "spearman": "spearmanr"}


def metadata(name: str, task: TaskDef, facts: Facts) -> dict[str, Any]:
    """The card's metadata; keys without a known value are omitted."""
    crossed, tasks = task.is_cross_encoder, facts.run.tasks if facts.run else {name: task}
    origin, results = facts.origin, _model_index(name, task, facts)
    licence = origin.licence if origin else None
    together = len(tasks) > 1 or bool(origin and any(len(phase.tasks) > 1 for phase in origin.phases))
    pipeline = _pipeline(task)
    values = {
        "license": licence.id if licence else None,
        "license_name": licence.name if licence else None,
        "license_link": licence.link if licence else None,
        "base_model": origin.hub_id if origin else None,
        "base_model_relation": "finetune" if origin and origin.hub_id else None,
        "datasets": list(dict.fromkeys(found for t in tasks.values() if (found := _data_set(t)))),
        "metrics": list(dict.fromkeys(HUB_METRICS.get(metric, metric) for metric in task.metrics)),
        "pipeline_tag": pipeline,
        "library_name": "sentence-transformers" if crossed else "transformers",
        "tags": [
            "mtl-toolkit",
            *(["multi-task-learning"] if together else []),
            *(["cross-encoder", "reranker"] if crossed else []),
            *(["regression"] if task.type == "regression" else []),
        ],
        "model-index": [{"name": name, "results": results}] if results else None,
    }
    return {key: value for key, value in values.items() if value}


def _pipeline(task: TaskDef) -> str:
    return "text-ranking" if task.is_cross_encoder else "text-classification"


def _data_set(task: TaskDef) -> str | None:
    """The task's data set on the hub, if it has one."""
    hub = task.data.hub
    return hub if hub and HUB_ID.fullmatch(hub) else None


def _model_index(name: str, task: TaskDef, facts: Facts) -> list[dict[str, Any]]:
    found, data = [], task.data
    for split, values in facts.metrics.items():
        metrics: list[dict[str, Any]] = [
            {
                "type": HUB_METRICS.get(metric, metric),
                "value": values[metric],
                "name": metric,
                **({"args": {"average": "macro"}} if metric == "macro_f1" else {}),
            }
            for metric in task.metrics
            if is_number(values.get(metric))
        ]
        target = data.splits.get(split, split)
        if metrics and NAME.fullmatch(split):
            data_set = {
                "name": name,
                "type": _data_set(task) or "unknown",
                **({"config": data.config} if _data_set(task) and CONFIG.fullmatch(data.config or "") else {}),
                "split": target if NAME.fullmatch(target) else split,
            }
            found.append({"task": {"type": _pipeline(task), "name": name}, "dataset": data_set, "metrics": metrics})
    return found


def is_number(value: Any) -> bool:
    """Whether a recorded value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
