"""One shared encoder with native heads, on nine architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import CONFIGS, PADDING, VOCABULARY, save_random_encoder
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    ModernBertForMaskedLM,
)

from mtl.batch import Batch
from mtl.errors import UserError
from mtl.export import save_model
from mtl.model import HEADS_FILE, MultiTaskModel, build_model, layers, load_model
from mtl.native_head import quiet_transformers
from mtl.taskdef import Columns, DataSource, TaskDef

SOURCE = DataSource(files={"train": "t.csv"}, columns=Columns(text_a="a", text_b="b"))
TASKS = {
    "colour": TaskDef(type="classification", data=SOURCE, labels=["red", "green", "blue"], dropout=0.3),
    "degree": TaskDef(type="regression", data=SOURCE, dropout=0.0),
    "type": TaskDef(type="ranking", data=SOURCE),  # also the name of a method of nn.Module
}


class NoTokenizer:
    """Stands where a tokenizer would be saved."""

    def __init__(self) -> None:
        self.init_kwargs: dict[str, object] = {}

    def save_pretrained(self, folder: Path) -> None:
        pass


def make_batch(lengths: tuple[int, ...] = (7, 4, 9), pad_to: int = 0, types: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(7)
    longest = max(pad_to, *lengths)
    ids = torch.full((len(lengths), longest), PADDING)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, VOCABULARY, (length,), generator=generator)
    mask = torch.stack([(torch.arange(longest) < length).long() for length in lengths])
    token_types = (torch.arange(longest) >= 3).long().expand(len(lengths), -1) if types else None
    return Batch(
        ids,
        mask,
        token_types,
        torch.zeros(len(lengths)).long(),
        None,
        torch.arange(len(lengths)),
        torch.tensor(lengths),
    )


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, MultiTaskModel]:
    folder = tmp_path_factory.mktemp(request.param)
    with quiet_transformers():
        save_random_encoder(request.param, folder)
    return request.param, folder, build_model(str(folder), TASKS, seed=1)


def embedded(model: MultiTaskModel, batch: Batch) -> Tensor:
    return torch.zeros(*batch.input_ids.shape, model.word_embeddings.embedding_dim)


def test_zero_perturbation_gives_the_plain_logits_bitwise(built: tuple[str, Path, MultiTaskModel]) -> None:
    name, _, model = built
    model.eval()
    batch = make_batch(types=name in ("bert", "albert", "electra"))
    for task in TASKS:
        assert torch.equal(model(task, batch), model(task, batch, embedded(model, batch)))


def test_perturbation_moves_the_word_embedding_only(built: tuple[str, Path, MultiTaskModel]) -> None:
    """Adding δ is what replacing the row of the embedding table by e + δ does, positions and types untouched."""
    _, _, model = built
    model.eval()
    batch = make_batch()
    token = int(batch.input_ids[0, 2])
    delta = embedded(model, batch)
    change = torch.linspace(-1, 1, delta.shape[-1])
    delta[batch.input_ids == token] = change
    perturbed = model("degree", batch, delta)
    weight = model.word_embeddings.weight
    original = weight.detach().clone()
    with torch.no_grad():
        weight[token] += change
    moved = model("degree", batch)
    with torch.no_grad():
        weight.copy_(original)
    torch.testing.assert_close(perturbed, moved, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(perturbed, model("degree", batch), atol=1e-4)


def test_padding_and_other_rows_change_no_logits(built: tuple[str, Path, MultiTaskModel]) -> None:
    _, _, model = built
    model.eval()
    alone, padded = make_batch(), make_batch(pad_to=15)
    torch.testing.assert_close(model("colour", alone), model("colour", padded), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blocks", [False, True])
def test_layers_of_an_encoder_are_found_in_blocks_too(blocks: bool) -> None:
    parts = [torch.nn.Linear(2, 2) for _ in range(4)]
    outer: Any = [torch.nn.ModuleList(parts[:2]), torch.nn.ModuleList(parts[2:])] if blocks else parts
    assert layers(torch.nn.Sequential(torch.nn.LayerNorm(2), torch.nn.ModuleList(outer))) == parts


def test_encoder_is_shared_and_heads_are_not(built: tuple[str, Path, MultiTaskModel]) -> None:
    _, _, model = built
    for task in TASKS:
        assert model.task_model(task).base_model is model.encoder
    names = model.named_tensors()
    assert len({tensor.data_ptr() for tensor in names.values()}) == len(names)
    assert {id(p) for p in model.parameters()} == {id(p) for p in names.values()}
    model.train()
    model.zero_grad()
    model("colour", make_batch()).sum().backward()
    with_gradient = {name for name, parameter in names.items() if parameter.grad is not None}
    assert any(name.startswith("encoder.") for name in with_gradient)
    assert {name.split(".")[1] for name in with_gradient if name.startswith("heads.")} == {"colour"}


def test_head_dropout_follows_the_task(built: tuple[str, Path, MultiTaskModel]) -> None:
    name, _, model = built
    for task, definition in TASKS.items():
        head = model.heads[f"{task}_head"]
        rates = {n: m.p for n, m in head.named_modules() if isinstance(m, torch.nn.Dropout)}
        off = (
            {"pooler.dropout"} if name == "deberta-v2" else set()
        )  # off in the architecture, and not the head's only one
        assert {rate for key, rate in rates.items() if key not in off} == {definition.dropout}
        assert all(rates[key] == 0 for key in off)


def test_heads_depend_on_their_own_name_only(built: tuple[str, Path, MultiTaskModel]) -> None:
    _, folder, model = built
    alone = build_model(str(folder), {"degree": TASKS["degree"]}, seed=1)
    other = build_model(str(folder), {"degree": TASKS["degree"]}, seed=2)
    for name, tensor in alone.named_tensors().items():
        assert torch.equal(tensor, model.named_tensors()[name])
    weights = [name for name in alone.named_tensors() if name.startswith("heads.") and name.endswith("weight")]
    assert any(not torch.equal(alone.named_tensors()[name], other.named_tensors()[name]) for name in weights)


def test_pretrained_layers_of_a_head_are_kept(tmp_path: Path) -> None:
    """ModernBERT's masked language model has the head's dense layer and its norm; output layers are always fresh."""
    torch.manual_seed(0)
    pretrained = ModernBertForMaskedLM(CONFIGS["modernbert"]())
    with quiet_transformers():
        pretrained.save_pretrained(tmp_path / "masked")
        plain = BertForSequenceClassification(BertConfig(**CONFIGS["bert"]().to_diff_dict() | {"num_labels": 1}))
        plain.save_pretrained(tmp_path / "scores")
    model = build_model(str(tmp_path / "masked"), TASKS, seed=1)
    for task in TASKS:
        head = model.task_model(task)
        assert torch.equal(head.head.dense.weight, pretrained.head.dense.weight)
        assert head.head.dense.weight is not pretrained.head.dense.weight
    one, other = (model.task_model(task).classifier.weight for task in ("degree", "type"))
    assert not torch.equal(one, other)
    assert model.task_model("degree").head.dense.weight is not model.task_model("type").head.dense.weight
    scores = build_model(str(tmp_path / "scores"), TASKS, seed=1)
    assert not torch.equal(scores.task_model("degree").classifier.weight, plain.classifier.weight)


def test_fresh_heads_of_an_adaptation_take_pretrained_layers_too(tmp_path: Path) -> None:
    """… as those of the run that trained the encoder did; its own task's layers were trained for that task."""
    torch.manual_seed(0)
    pretrained = ModernBertForMaskedLM(CONFIGS["modernbert"]())
    with quiet_transformers():
        pretrained.save_pretrained(tmp_path / "masked")
    model, folder = build_model(str(tmp_path / "masked"), TASKS, seed=1), tmp_path / "run" / "model"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)  # training
    save_model(model, NoTokenizer(), folder)
    adapted = load_model(folder, {"hue": TASKS["colour"]}, {"hue": None}, seed=1)
    save_model(adapted, NoTokenizer(), tmp_path / "again")
    for fresh in (
        adapted,
        build_model(str(folder), {"hue": TASKS["colour"]}, seed=1),
        load_model(tmp_path / "again", {"hue": TASKS["colour"]}, {"hue": None}, seed=1),
    ):
        assert torch.equal(fresh.task_model("hue").head.dense.weight, pretrained.head.dense.weight)
    borrowed = load_model(folder, {"hue": TASKS["colour"]}, {"hue": "colour"}, seed=1).task_model("hue")
    assert torch.equal(borrowed.head.dense.weight, pretrained.head.dense.weight + 1)
    stored = load_file(folder / HEADS_FILE)
    save_file(stored | {".pretrained.head.dense.weight": torch.zeros(1)}, folder / HEADS_FILE)
    with pytest.raises(UserError, match=r"layer head\.dense\.weight does not fit the head of modernbert"):
        load_model(folder, TASKS)


def test_saved_model_loads_natively_and_again(built: tuple[str, Path, MultiTaskModel], tmp_path: Path) -> None:
    _, _, model = built
    model.eval()
    save_model(model, NoTokenizer(), tmp_path / "model")
    batch = make_batch()
    again = load_model(tmp_path / "model", TASKS).eval()
    for task in TASKS:
        assert torch.equal(model(task, batch), again(task, batch))
        with quiet_transformers():
            model.task_model(task).save_pretrained(tmp_path / task)
            native, report = AutoModelForSequenceClassification.from_pretrained(
                tmp_path / task, output_loading_info=True
            )
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        for name, tensor in model.task_model(task).state_dict().items():
            assert torch.equal(tensor, native.state_dict()[name])
        logits = native.eval()(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        # The same weights in memory of another alignment: matrix products may take another path.
        torch.testing.assert_close(logits, model(task, batch), rtol=1e-5, atol=1e-6)
    partly_fresh = load_model(tmp_path / "model", TASKS, {"degree": None}, seed=9).eval()
    assert torch.equal(partly_fresh("colour", batch), model("colour", batch))
    assert not torch.equal(partly_fresh("degree", batch), model("degree", batch))
    borrowed = load_model(tmp_path / "model", {"hue": TASKS["colour"]}, {"hue": "colour"}).eval()
    assert torch.equal(borrowed("hue", batch), model("colour", batch))


def test_exported_configuration_names_the_labels(built: tuple[str, Path, MultiTaskModel]) -> None:
    _, _, model = built
    config = model.task_model("colour").config
    assert config.id2label == {0: "red", 1: "green", 2: "blue"}
    assert config.label2id == {"red": 0, "green": 1, "blue": 2}
    assert config.problem_type == "single_label_classification"
    assert model.task_model("type").config.num_labels == 1
    assert model.task_model("degree").config.problem_type == "regression"
