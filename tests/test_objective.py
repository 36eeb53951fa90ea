"""Task loss, R_s and the proximal term in one step of one module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import VOCABULARY, save_random_encoder
from test_batch import queries
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mtl.batch import Batch, collate
from mtl.losses import DIVERGENCES, LOSSES
from mtl.model import MultiTaskModel, build_model
from mtl.native_head import quiet_transformers
from mtl.objective import Divisors, Objective, by_example, with_class_weights
from mtl.proximal import update_teacher
from mtl.random_state import random_state, replayed
from mtl.taskdef import Columns, DataSource, ProximalSettings, SmartSettings, TaskDef

SOURCE = DataSource(files={"train": "t.csv"}, columns=Columns(text_a="a"))
OFF: dict[str, Any] = {"smart": SmartSettings(weight=0.0), "proximal": ProximalSettings(weight=0.0)}
# A radius that float32 and even float64 resolve well on embeddings of this size.
STRONG: dict[str, Any] = {"epsilon": 0.05, "noise_std": 0.05, "step_size": 0.05}


def task(kind: Any, *, smart: float = 0.0, proximal: float = 0.0, **settings: Any) -> TaskDef:
    divergence: Any = "mse" if kind == "regression" else "sym_kl"
    loss: Any = {"classification": "cross_entropy", "regression": "mse", "ranking": "listwise"}[kind]
    return TaskDef(
        type=kind,
        data=SOURCE,
        labels=["x", "y", "z"] if kind == "classification" else [],
        loss=loss,
        smart=SmartSettings(weight=smart, divergence=divergence, **({"unit": "absolute"} | STRONG | settings)),
        proximal=ProximalSettings(weight=proximal, divergence=divergence),
    )


KINDS = ("classification", "regression", "ranking")


def batch_of(kind: str, rows: int = 4, length: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(4, VOCABULARY, (rows, length), generator=generator)
    lists = torch.tensor([[0, 1, 2], [3, -1, -1]]) if kind == "ranking" else None
    labels = {
        "classification": torch.arange(rows) % 3,
        "regression": torch.linspace(-1, 1, rows),
        "ranking": torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
    }[kind]
    lengths = torch.full((rows,), length)
    return Batch(ids, torch.ones(rows, length).long(), None, labels, lists, torch.arange(rows), lengths)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    with quiet_transformers():
        save_random_encoder("bert", folder)
    return folder


def objective_of(encoder: Path, tasks: dict[str, TaskDef], *, double: bool = False) -> Objective:
    model: MultiTaskModel = build_model(str(encoder), tasks, seed=0)
    if double:
        model.double()
    torch.manual_seed(3)
    return Objective(model, tasks, seed=5).train()


def gradients(objective: Objective) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in objective.model.named_tensors().items() if p.grad is not None}


def run(objective: Objective, name: str, batch: Batch, turn: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    loss, terms = objective(name, batch, turn, Divisors.whole(batch))
    objective.zero_grad()
    loss.backward()
    return loss.detach(), terms


@contextmanager
def perturbations_seen(objective: Objective) -> Iterator[list[Tensor]]:
    """Collects every δ that the student is run with."""
    seen: list[Tensor] = []

    def note(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if len(args) == 3 and args[2] is not None:
            seen.append(args[2].detach())

    handle = objective.model.register_forward_pre_hook(note)
    yield seen
    handle.remove()


@pytest.mark.parametrize("dropout", ["shared", "independent"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_zero_are_plain_training_bitwise(encoder: Path, kind: str, dropout: str) -> None:
    """Two steps with the terms off and on: the loss, its dropout masks and all later draws stay the same."""
    batch = batch_of(kind)
    plain, full = (
        objective_of(encoder, {kind: task(kind)}),
        objective_of(encoder, {kind: task(kind, smart=1, proximal=1, dropout=dropout)}),
    )
    torch.manual_seed(11)
    expected = [run(plain, kind, batch, step)[1]["loss"] for step in range(2)]
    after = torch.get_rng_state()
    torch.manual_seed(11)
    terms = [run(full, kind, batch, step)[1] for step in range(2)]
    assert torch.equal(after, torch.get_rng_state())
    assert [t["loss"] for t in terms] == expected
    assert all(t["smart"] > 0 for t in terms)
    assert set(run(plain, kind, batch)[1]) == {"loss"}


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_terms_add_up_with_their_weights(encoder: Path, kind: str, every: int) -> None:
    """R_s of a lazy regularization weighs as much more as it comes less often."""
    batch = batch_of(kind)
    definition = task(kind, smart=3.0, proximal=0.5, every=every).model_copy(update={"weight": 2.0})
    objective = objective_of(encoder, {kind: definition})
    with torch.no_grad():
        for parameter in objective.model.parameters():
            parameter.mul_(1.01)
    loss, terms = run(objective, kind, batch)
    assert terms["proximal"] > 0
    torch.testing.assert_close(loss, 2.0 * (terms["loss"] + 3.0 * every * terms["smart"] + 0.5 * terms["proximal"]))


@pytest.mark.parametrize("kind", KINDS)
def test_proximal_term_vanishes_with_its_gradient_at_the_teacher(encoder: Path, kind: str) -> None:
    """D(θ, θ) = 0 with dropout on, because both see the same masks."""
    batch = batch_of(kind)
    objective = objective_of(encoder, {kind: task(kind, proximal=1.0)})
    torch.manual_seed(1)
    _, terms = run(objective, kind, batch)
    with_term = gradients(objective)
    assert terms["proximal"] == 0
    plain = objective_of(encoder, {kind: task(kind)})
    torch.manual_seed(1)
    run(plain, kind, batch)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(with_term[name], gradient, rtol=1e-5, atol=1e-7)


def test_teacher_lags_and_takes_no_gradient(encoder: Path) -> None:
    objective = objective_of(encoder, {"c": task("classification", proximal=1.0)})
    assert objective.teacher is not None
    before = {name: tensor.clone() for name, tensor in objective.teacher.named_tensors().items()}
    with torch.no_grad():
        for parameter in objective.model.parameters():
            parameter.add_(1.0)
    update_teacher(objective.teacher.parameters(), objective.model.parameters(), 0.75)
    for name, tensor in objective.teacher.named_tensors().items():
        torch.testing.assert_close(tensor, before[name] + 0.25, rtol=1e-5, atol=1e-6)
        assert not tensor.requires_grad
    registered = {id(p) for p in objective.parameters()}
    assert not registered & {id(p) for p in objective.teacher.parameters()}
    run(objective, "c", batch_of("classification"))
    assert all(p.grad is None for p in objective.teacher.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_flows_through_both_sides_of_r_s(encoder: Path, kind: str) -> None:
    """The step's gradient is that of L + λ·ℓ_s(f(x + δ), f(x)) with δ held fixed, by finite differences in float64."""
    definitions = {kind: task(kind, smart=2.0)}
    objective = objective_of(encoder, definitions, double=True).eval()
    batch = batch_of(kind)
    with perturbations_seen(objective) as seen:
        run(objective, kind, batch)
    delta = seen[-1]
    bias = objective.model.named_tensors()["encoder.encoder.layer.0.output.dense.bias"]
    assert bias.grad is not None
    analytic = bias.grad[:3].clone()

    def value() -> float:
        from mtl.objective import by_example

        clean, perturbed = objective.model(kind, batch), objective.model(kind, batch, delta)
        (p, mask), (q, _) = by_example(perturbed, batch), by_example(clean, batch)
        divergence = DIVERGENCES[definitions[kind].smart.divergence or ""](p, q, mask)
        share = Divisors.whole(batch)
        loss = objective.task_loss(definitions[kind], batch, clean) / share.labelled
        return float(loss + 2.0 * divergence.sum() / share.examples)

    for index in range(3):
        with torch.no_grad():
            values = []
            for h in (1e-4, -1e-4):
                bias[index] += h
                values.append(value())
                bias[index] -= h
        numeric = (values[0] - values[1]) / 2e-4
        torch.testing.assert_close(float(analytic[index]), numeric, rtol=1e-5, atol=1e-9)


def test_gradient_flows_through_both_passes_of_r_drop(encoder: Path) -> None:
    """Without a perturbation, by finite differences in float64 under the same two dropout masks."""
    settings: dict[str, Any] = {"dropout": "independent", "epsilon": 0.0, "noise_std": 0.0, "steps": 0}
    objective = objective_of(encoder, {"c": task("classification", smart=2.0, **settings)}, double=True)
    batch = batch_of("classification")

    def value() -> float:
        torch.manual_seed(1)
        return float(run(objective, "c", batch)[0])

    value()
    bias = objective.model.named_tensors()["encoder.encoder.layer.0.output.dense.bias"]
    assert bias.grad is not None
    analytic = bias.grad[:3].clone()
    for index in range(3):
        values = []
        for h in (1e-5, -1e-5):
            with torch.no_grad():
                bias[index] += h
            values.append(value())
            with torch.no_grad():
                bias[index] -= h
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(analytic[index]), rel=1e-4)


def test_shared_masks_isolate_the_perturbation_from_dropout(encoder: Path) -> None:
    """With a vanishing radius R_s vanishes under shared masks; under independent ones it is the dropout's own."""
    batch = batch_of("classification")
    tiny = {"epsilon": 1e-6, "noise_std": 1e-6, "smart": 1.0}
    shared = objective_of(encoder, {"c": task("classification", **tiny)})
    independent = objective_of(encoder, {"c": task("classification", dropout="independent", **tiny)})
    torch.manual_seed(1)
    small = run(shared, "c", batch)[1]["smart"]
    torch.manual_seed(1)
    large = run(independent, "c", batch)[1]["smart"]
    assert 0 < small < 1e-7
    assert large > 1000 * small


def test_independent_masks_are_others_in_each_micro_batch(encoder: Path) -> None:
    definition = task("classification", smart=1.0, dropout="independent", epsilon=0.0, noise_std=0.0, steps=0)
    objective, first = objective_of(encoder, {"c": definition}), batch_of("classification")
    values = []
    for batch in (first, first, replace(first, rows=first.rows + 4)):
        torch.manual_seed(1)  # the clean branch's
        values.append(float(run(objective, "c", batch)[1]["smart"]))
    assert values[0] == values[1] != values[2]


def test_noise_depends_on_seed_task_turn_and_row_only(encoder: Path) -> None:
    definitions = {name: task("regression", smart=1.0, steps=0) for name in ("a", "b")}
    objective = objective_of(encoder, definitions).eval()
    whole = batch_of("regression", rows=4)
    two = {name: tensor[:2] for name, tensor in vars(whole).items() if isinstance(tensor, Tensor)}
    first = replace(whole, **dict[str, Any](two))
    with perturbations_seen(objective) as seen:
        for name, batch, turn in (("a", whole, 0), ("a", first, 0), ("a", whole, 0), ("a", whole, 1), ("b", whole, 0)):
            run(objective, name, batch, turn)
    assert torch.equal(seen[0][:2], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[3])
    assert not torch.equal(seen[0], seen[4])
    other = Objective(objective.model, definitions, seed=6).eval()
    with perturbations_seen(other) as seeded:
        run(other, "a", whole)
    assert not torch.equal(seen[0], seeded[0])


@pytest.mark.parametrize(("kind", "examples"), [("classification", 4), ("regression", 4), ("ranking", 2)])
def test_terms_are_their_own_divergences_in_the_papers_order(encoder: Path, kind: str, examples: int) -> None:
    """R_s = ℓ_s(f(x + δ), f(x)) and D = ℓ_s(f(x; θ), f(x; θ̃)), with a divergence each and one that is not symmetric.

    Both are means over all examples, in ranking also over queries without a label.
    """
    batch = batch_of(kind)
    for smooth, near in [("mse", "mse")] if kind == "regression" else [("kl", "js"), ("js", "kl")]:
        definition = task(kind, smart=1.0)
        near_teacher = definition.proximal.model_copy(update={"weight": 1.0, "divergence": near})
        smoothed = definition.smart.model_copy(update={"divergence": smooth})
        definition = definition.model_copy(update={"smart": smoothed, "proximal": near_teacher})
        objective = objective_of(encoder, {"c": definition}, double=True).eval()
        with torch.no_grad():
            for parameter in objective.model.parameters():
                parameter.mul_(1.1)
        with perturbations_seen(objective) as seen:
            _, terms = run(objective, "c", batch)
        assert objective.teacher is not None
        with torch.no_grad():
            outputs = [objective.model("c", batch, delta) for delta in (None, seen[-1])]
            outputs.append(objective.teacher("c", batch))
            (clean, mask), (perturbed, _), (target, _) = (by_example(found, batch) for found in outputs)
        for name, divergence, p, q in (("smart", smooth, perturbed, clean), ("proximal", near, clean, target)):
            expected = DIVERGENCES[divergence](p, q, mask).sum() / examples
            torch.testing.assert_close(terms[name], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_padding_and_other_rows_do_not_change_r_s(encoder: Path, kind: str, norm: str) -> None:
    """In float64: a batch padded further has the same R_s, and R_s of two rows is the mean of each row's own."""
    objective = objective_of(encoder, {kind: task(kind, smart=1.0, norm=norm, steps=2)}, double=True).eval()
    whole = batch_of(kind, rows=2)
    whole.attention_mask[1, 5:], whole.lengths[1] = 0, 5  # rows of different length
    more = torch.nn.functional.pad
    padded = replace(whole, input_ids=more(whole.input_ids, (0, 5)), attention_mask=more(whole.attention_mask, (0, 5)))
    rows = [
        replace(whole, **dict[str, Any]({name: t[[row]] for name, t in vars(whole).items() if isinstance(t, Tensor)}))
        for row in (0, 1)
    ]
    with perturbations_seen(objective) as seen:
        together, apart = run(objective, kind, whole)[1]["smart"], run(objective, kind, padded)[1]["smart"]
    torch.testing.assert_close(apart, together, rtol=1e-9, atol=0)
    assert all((delta[batch.attention_mask == 0] == 0).all() for delta, batch in ((seen[0], whole), (seen[-1], padded)))
    alone = torch.stack([run(objective, kind, row)[1]["smart"] for row in rows]).mean()
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_sum_to_the_whole_batch(encoder: Path, kind: str) -> None:
    definitions = {kind: task(kind, smart=1.0, proximal=1.0)}
    objective = objective_of(encoder, definitions, double=True).eval()
    with torch.no_grad():
        for parameter in objective.model.parameters():
            parameter.mul_(1.02)
    whole = batch_of(kind)
    total, terms = run(objective, kind, whole)
    expected = gradients(objective)

    def part(rows: slice, queries: slice) -> Batch:
        lists = (
            None
            if whole.lists is None
            else whole.lists[queries].where(whole.lists[queries] < 0, whole.lists[queries] - rows.start)
        )
        labels = whole.labels[rows if lists is None else queries]
        ids, mask, lengths = whole.input_ids[rows], whole.attention_mask[rows], whole.lengths[rows]
        return Batch(ids, mask, None, labels, lists, whole.rows[rows], lengths)

    parts = [part(slice(0, 3), slice(0, 1)), part(slice(3, 4), slice(1, 2))]
    share = Divisors.whole(whole)
    objective.zero_grad()
    losses, own = zip(*(objective(kind, p, 0, share) for p in parts), strict=True)
    torch.stack(losses).sum().backward()
    for name in ("loss", "smart", "proximal"):
        torch.testing.assert_close(sum(part[name] for part in own), terms[name], rtol=1e-9, atol=0)
    if kind != "ranking":  # whose telemetry of ℓ_s is by query, as ℓ_s is
        for name in ("smart_noise", "smart_length", "smart_boundary"):
            torch.testing.assert_close(sum(part[name] for part in own), terms[name], rtol=1e-9, atol=0)
    torch.testing.assert_close(sum(float(loss.detach()) for loss in losses), float(total), rtol=1e-12, atol=0)
    for name, gradient in gradients(objective).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_shares_before_and_after_batching_are_the_same(kind: str) -> None:
    """A query without a relevant candidate is an example, and carries no loss."""
    examples = queries([3, 2, 4, 1], [[0], [], [1, 2], []])
    chosen = np.arange(len(examples))
    share = Divisors.of(examples, chosen, ranking=kind == "ranking")
    assert share == Divisors.whole(collate(examples, chosen, 0, kind))
    assert share == (Divisors(labelled=2, examples=4) if kind == "ranking" else Divisors(labelled=10, examples=10))
    nothing = chosen[np.isin(examples.groups, [1, 3])]
    share = Divisors.of(examples, nothing, ranking=kind == "ranking")
    assert share == Divisors.whole(collate(examples, nothing, 0, kind))


def test_order_of_candidates_changes_nothing(encoder: Path) -> None:
    definitions = {"r": task("ranking", smart=1.0)}
    objective = objective_of(encoder, definitions, double=True).eval()
    batch = batch_of("ranking")
    order = torch.tensor([2, 0, 1, 3])
    permuted = Batch(
        batch.input_ids[order], batch.attention_mask, None, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]),
        batch.lists, batch.rows[order], batch.lengths,
    )  # fmt: skip
    first, second = run(objective, "r", batch)[1], run(objective, "r", permuted)[1]
    for term in ("loss", "smart"):
        torch.testing.assert_close(first[term], second[term], rtol=1e-9, atol=0)
    torch.testing.assert_close(objective.model("r", batch)[order], objective.model("r", permuted), rtol=1e-9, atol=0)


@pytest.mark.parametrize("preset", ["paper", "mtdnn", "r3f", "rdrop"])
def test_presets_train(encoder: Path, preset: str) -> None:
    from mtl.presets import PRESETS

    assert set(PRESETS["smart"]) == {"paper", "mtdnn", "r3f", "rdrop"}
    values: dict[str, Any] = {"weight": 1.0, "divergence": "sym_kl"}
    settings = SmartSettings(**(values | PRESETS["smart"][preset]))
    objective = objective_of(encoder, {"c": task("classification").model_copy(update={"smart": settings})})
    _, terms = run(objective, "c", batch_of("classification"))
    assert terms["smart"] > 0
    assert ("smart_noise" in terms) == (preset in ("paper", "mtdnn"))
    assert ("smart_length" in terms) == (preset != "rdrop")
    if preset == "rdrop":  # no perturbation: all of it is dropout
        torch.testing.assert_close(terms["smart"], terms["smart_dropout"])
    if preset == "mtdnn":
        torch.testing.assert_close(float(terms["smart_length"]), 1.0)


@pytest.mark.parametrize(("ascent", "power"), [("projected", 1), ("normalized", 2)])
def test_radius_can_be_relative_to_the_embeddings(encoder: Path, ascent: str, power: int) -> None:
    """ε in units of the root mean square: the same step as with the product given in absolute units."""
    batch = batch_of("regression")
    relative: dict[str, Any] = {name: value / 0.25 for name, value in STRONG.items()}
    relative |= {"ascent": ascent, "scope": "token"}
    objective = objective_of(encoder, {"d": task("regression", smart=1.0, unit="embedding_rms", **relative)}).eval()
    table = objective.model.word_embeddings.weight.detach().double()
    assert objective.embedding_rms == pytest.approx(float((table**2).mean()) ** 0.5)
    rms = objective.embedding_rms
    absolute = relative | {
        "epsilon": relative["epsilon"] * rms,
        "noise_std": relative["noise_std"] * rms,
        "step_size": relative["step_size"] * rms**power,
    }
    other = objective_of(encoder, {"d": task("regression", smart=1.0, **absolute)}).eval()
    assert run(objective, "d", batch)[1]["smart"] == pytest.approx(float(run(other, "d", batch)[1]["smart"]), rel=1e-4)
    before = objective.radius_unit("d")
    with torch.no_grad():
        objective.model.word_embeddings.weight.mul_(2)
    assert objective.radius_unit("d") == before, "measured once"


def test_other_tasks_regularizers_do_not_reach_a_task(encoder: Path) -> None:
    alone = objective_of(encoder, {"c": task("classification"), "d": task("regression")})
    beside = objective_of(encoder, {"c": task("classification"), "d": task("regression", smart=1.0, proximal=1.0)})
    results = []
    for objective in (alone, beside):
        torch.manual_seed(4)
        results.append((run(objective, "c", batch_of("classification"))[0], gradients(objective)))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(results[0][1][name], gradient) for name, gradient in results[1][1].items())


def test_replayed_restores_the_generator() -> None:
    torch.manual_seed(0)
    state = random_state(torch.device("cpu"))
    first = torch.rand(3)
    expected_next = torch.rand(3)
    torch.manual_seed(0)
    torch.rand(3)
    with replayed(state):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.rand(3), expected_next)


@pytest.mark.parametrize(
    ("smart", "steps", "proximal", "bound"),
    [(1.0, 1, 1.0, 3.05), (1.0, 1, 0.0, 2.72), (1.0, 0, 0.0, 2.03), (0.0, 0, 1.0, 1.36)],
)
def test_flops_stay_at_the_floor(tmp_path: Path, smart: float, steps: int, proximal: float, bound: float) -> None:
    """In forward passes: plain 3, with D 4, R3F 6, R_s with K = 1 8, both 9; a little more for attention."""
    from transformers import AutoModelForSequenceClassification, BertConfig

    config = BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256
    )
    with quiet_transformers():
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    counts = []
    for definition in (task("classification"), task("classification", smart=smart, proximal=proximal, steps=steps)):
        objective = objective_of(tmp_path, {"c": definition})
        with FlopCounterMode(display=False) as counter:
            run(objective, "c", batch_of("classification", rows=4, length=16))
        counts.append(counter.get_total_flops())
    assert bound - 0.1 < counts[1] / counts[0] <= bound


def test_a_relative_radius_follows_what_the_table_gives(tmp_path: Path) -> None:
    """Gemma's table multiplies its rows by √D, after which δ is added."""
    from transformers import AutoModelForSequenceClassification, Gemma3TextConfig

    config = Gemma3TextConfig(
        **{"vocab_size": 5000, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 32},
        **{"num_key_value_heads": 1, "intermediate_size": 64, "pad_token_id": 1, "max_position_embeddings": 64},
    )
    with quiet_transformers():
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    definition = task("classification", smart=1, unit="embedding_rms")
    objective = objective_of(tmp_path, {"c": definition})
    weight = objective.model.word_embeddings.weight
    expected = 8 * float(weight.detach().square().mean().sqrt())
    assert objective.embedding_rms == pytest.approx(expected, rel=1e-3)  # √64, which Gemma rounds to bf16
    with perturbations_seen(objective) as seen:
        run(objective, "c", batch_of("classification"))
    assert float(seen[-1].abs().max()) == pytest.approx(definition.smart.epsilon * expected, rel=1e-3)


@pytest.mark.parametrize("name", ["listwise", "pairwise"])
def test_the_loss_is_the_one_that_the_task_names(encoder: Path, name: str) -> None:
    objective = objective_of(encoder, {"r": task("ranking").model_copy(update={"loss": name})}).eval()
    batch = batch_of("ranking")
    logits, mask = by_example(objective.model("r", batch), batch)
    expected = LOSSES[name](logits, batch.labels, mask)[0].detach()  # nothing is relevant to the other query
    assert float(run(objective, "r", batch)[1]["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_balanced_class_weights_give_each_class_the_same_total(encoder: Path) -> None:
    definition = task("classification").model_copy(update={"class_weights": "balanced", "label_smoothing": 0.25})
    weighted = with_class_weights(definition, np.array([0.0, 0, 1, 0, 0, 1, 0, 0]))
    weights = [8 / (3 * 6), 8 / (3 * 2), 0.0]  # the third class has no row
    assert weighted.class_weights == weights
    assert with_class_weights(weighted, np.zeros(3)) is weighted, "numbers stay"
    objective = objective_of(encoder, {"t": weighted}, double=True).eval()
    batch = batch_of("classification")
    outputs = objective.model("t", batch)
    log_p = outputs.log_softmax(dim=1)
    w = torch.tensor(weights, dtype=torch.float64)
    expected = [-0.75 * w[y] * row[y] - 0.25 / 3 * (w * row).sum() for row, y in zip(log_p, batch.labels, strict=True)]
    torch.testing.assert_close(objective.task_loss(weighted, batch, outputs), sum(expected), rtol=1e-6, atol=0)
    loss, _ = objective("t", batch, 0, Divisors.whole(batch))
    torch.testing.assert_close(loss, sum(expected) / 4, rtol=1e-6, atol=0)
