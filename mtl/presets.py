"""Published settings of the regularizers, by the names that `preset` takes in a task's `smart` and `proximal`."""

from __future__ import annotations

from typing import Any

from mtl.settings import Sourced

# Section of a definition -> preset name -> values. Keys that the section sets explicitly take precedence.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "smart": {
        # arXiv 1911.03437, section 4.1.
        "paper": {
            "epsilon": 1e-5,
            "noise_std": 1e-5,
            "step_size": 1e-3,
            "unit": "absolute",
            "steps": 1,
            "norm": "linf",
            "scope": "example",
            "ascent": "projected",
            "dropout": "independent",
        },
        # The authors' public code: unit norm per token, applied to the embedding layer's output, whose values are of
        # size 1. The step size is the default of their class; their training script passes 1e-5 instead.
        "mtdnn": {
            "epsilon": 1.0,
            "noise_std": 1e-5,
            "step_size": 1e-3,
            "unit": "embedding_rms",
            "steps": 1,
            "norm": "linf",
            "scope": "token",
            "ascent": "normalized",
            "dropout": "independent",
        },
        # arXiv 2008.03156, section 3; but noise beyond one standard deviation is clipped to it.
        "r3f": {"epsilon": 1e-5, "noise_std": 1e-5, "unit": "absolute", "steps": 0, "dropout": "independent"},
        # arXiv 2106.14448: α/2 times the two KL terms, beside the sum of two cross entropies. Here there is one, so
        # this is α = 2; in a regression, where the authors' code has one loss and α times the squared distance, α = ½.
        "rdrop": {"epsilon": 0.0, "noise_std": 0.0, "steps": 0, "dropout": "independent", "weight": 0.5},
    },
    "proximal": {
        # arXiv 1911.03437, section 4.1.
        "paper": {"beta_early": 0.99, "beta_late": 0.999, "switch": 0.1},
    },
}


def with_presets(source: Sourced) -> Sourced:
    """Expand the presets of a definition; keys that the section sets explicitly take precedence."""
    for section, table in PRESETS.items():
        preset = source.child(section, "preset").data
        if isinstance(preset, str) and preset in table:
            place = source.place((section, "preset")) + " (preset)"
            values = Sourced({section: dict(table[preset])}, {(section, key): place for key in table[preset]})
            source = source.over(values)
    return source


def under_preset(base: Sourced, top: Sourced) -> Sourced:
    """Drop the values that a preset gave to a section of `base` if `top`, to be merged over it, names a preset there.

    The files of a run contain expanded presets, so a key counts as given by its preset if it has the preset's value.
    """
    for section, table in PRESETS.items():
        values = base.child(section).data
        if isinstance(top.child(section, "preset").data, str) and isinstance(values, dict):
            given = table.get(str(values.get("preset")), {})
            kept = {key: value for key, value in values.items() if key not in given or given[key] != value}
            base = Sourced({**base.data, section: kept}, base.places)
    return base
