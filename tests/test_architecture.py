"""Encoders that do not do what training supposes are refused or told of, before a step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_mixed_steps import make_setup
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BigBirdConfig,
    BigBirdPegasusConfig,
    CanineConfig,
    FNetConfig,
    GPT2Config,
    IBertConfig,
    LlamaTokenizer,
    LongformerConfig,
    PerceiverConfig,
    SqueezeBertConfig,
    T5Config,
    XLNetConfig,
    XmodConfig,
)

from mtl.architecture import architecture_warnings
from mtl.batch import collate
from mtl.checks import Row
from mtl.data import encode
from mtl.definitions import complete
from mtl.errors import UserError
from mtl.export import padding_on_the_right, save_export, task_of
from mtl.facts import Facts
from mtl.model import build_model
from mtl.native_head import quiet_transformers
from mtl.predictor import Model
from mtl.run_setup import check_model
from mtl.settings import Sourced
from mtl.tokenizer import load_tokenizer, tokenizer_fingerprint

SMALL: dict[str, Any] = {"vocab_size": 300, "pad_token_id": 0, "hidden_size": 32, "num_hidden_layers": 2}
SMALL |= {"intermediate_size": 48, "initializer_range": 0.2}
UNUSUAL: dict[str, Callable[[], Any]] = {
    "xlnet": lambda: XLNetConfig(
        vocab_size=300, pad_token_id=0, d_model=32, n_layer=2, n_head=4, d_inner=48, initializer_range=0.2
    ),
    "fnet": lambda: FNetConfig(**SMALL, max_position_embeddings=64, type_vocab_size=2),
    "longformer": lambda: LongformerConfig(
        **SMALL, num_attention_heads=4, max_position_embeddings=70, attention_window=8, sep_token_id=3
    ),
    "bart": lambda: BartConfig(
        vocab_size=300, pad_token_id=0, eos_token_id=3, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_position_embeddings=64, init_std=0.2,
    ),
    "ibert": lambda: IBertConfig(**SMALL, num_attention_heads=4, max_position_embeddings=64),
    "squeezebert": lambda: SqueezeBertConfig(
        **SMALL, num_attention_heads=4, max_position_embeddings=64, embedding_size=32, q_groups=1, k_groups=1,
        v_groups=1, post_attention_groups=1, intermediate_groups=1, output_groups=1,
    ),
    "perceiver": lambda: PerceiverConfig(
        vocab_size=300, d_model=32, d_latents=16, num_latents=8, num_self_attends_per_block=1,
        max_position_embeddings=64, num_self_attention_heads=4, num_cross_attention_heads=4,
    ),
    "bigbird": lambda: BigBirdConfig(
        **SMALL, num_attention_heads=4, max_position_embeddings=512, block_size=8, num_random_blocks=1
    ),
    "bigbird-pegasus": lambda: BigBirdPegasusConfig(
        vocab_size=300, pad_token_id=0, eos_token_id=3, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_position_embeddings=64,
    ),
    "t5": lambda: T5Config(
        vocab_size=300, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4, pad_token_id=0, eos_token_id=3,
        decoder_start_token_id=0,
    ),
    "canine": lambda: CanineConfig(**SMALL, num_attention_heads=4, max_position_embeddings=64),
    "xmod": lambda: XmodConfig(**SMALL, num_attention_heads=4, max_position_embeddings=64),
    "gpt2": lambda: GPT2Config(
        vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=2, eos_token_id=3,
        initializer_range=0.2,
    ),
}  # fmt: skip


def encoder_of(kind: str, encoder_dir: Path, folder: Path) -> Path:
    """A random encoder with the tokenizer of the fixtures."""
    torch.manual_seed(0)
    with quiet_transformers():
        AutoModelForSequenceClassification.from_config(UNUSUAL[kind]()).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(encoder_dir)
    assert len(tokenizer) <= 300
    tokenizer.save_pretrained(folder)
    return folder


def warnings_of(kind: str, encoder_dir: Path, corpus: Path, tmp_path: Path, *settings: str) -> list[str]:
    encoder = encoder_of(kind, encoder_dir, tmp_path / kind)
    setup = make_setup(corpus, encoder, tmp_path, *settings)
    setup.tokenizer.padding_side = "left" if kind == "xlnet" else "right"  # as XLNet's own has it
    before = torch.get_rng_state()
    try:
        return architecture_warnings(setup.objective, setup.streams, setup.tokenizer)
    finally:
        assert torch.equal(before, torch.get_rng_state())


def test_padding_on_the_left_is_refused(encoder_dir: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="xlnet expects padding on the left"):
        warnings_of("xlnet", encoder_dir, corpus, tmp_path, "train.smart=false")


def test_outputs_that_depend_on_padding_are_told(encoder_dir: Path, corpus: Path, tmp_path: Path) -> None:
    (warning,) = warnings_of("fnet", encoder_dir, corpus, tmp_path)
    assert "outputs of fnet depend on how far a batch is padded" in warning


def test_an_encoder_that_reads_no_word_embeddings_is_refused(encoder_dir: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="the word embeddings of bart cannot be perturbed, as SMART requires; use --no-smart"
    ):
        warnings_of("bart", encoder_dir, corpus, tmp_path)
    assert warnings_of("bart", encoder_dir, corpus, tmp_path, "train.smart=false") == []


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("ibert", "the word embeddings of ibert cannot be perturbed, as SMART requires; use --no-smart"),
        ("canine", "canine has no table of word embeddings, which SMART perturbs; use --no-smart"),
    ],
)
def test_an_encoder_with_another_kind_of_table_trains_without_smart(
    kind: str, fault: str, encoder_dir: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=fault):
        warnings_of(kind, encoder_dir, corpus, tmp_path)
    warnings_of(kind, encoder_dir, corpus, tmp_path, "train.smart=false", "train.proximal=false")


def test_an_encoder_that_holds_the_head_is_refused(encoder_dir: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="perceiver keeps its head inside the encoder"):
        warnings_of("perceiver", encoder_dir, corpus, tmp_path, "train.smart=false")


def test_a_token_without_an_embedding_is_told(encoder_dir: Path, corpus: Path, tmp_path: Path) -> None:
    encoder = encoder_of("gpt2", encoder_dir, tmp_path / "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.add_tokens([f"[{number}]" for number in range(300 - len(tokenizer))] + ["film"])
    tokenizer.save_pretrained(encoder)
    assert len(tokenizer) == 300, "a word that is known"
    setup = make_setup(corpus, encoder, tmp_path)
    assert check_model(setup) == []
    tokenizer.add_special_tokens({"pad_token": "[padding]"})
    tokenizer.save_pretrained(encoder)
    setup = make_setup(corpus, encoder, tmp_path)
    fault = r"the id of '\[padding\]' is 300 in the tokenizer, but there are only 300 embeddings; enlarge them"
    with pytest.raises(UserError, match=fault):
        check_model(setup)


def export_of(encoder: Path, folder: Path, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a task's model on batches as in training, and those of its export with plain Transformers."""
    tokenizer = load_tokenizer(str(encoder))
    task, problems = complete("t", Sourced(dict(TASK)))
    assert task is not None and problems == []
    model = build_model(str(encoder), {"t": task}, seed=0).eval()
    model.pad_with(tokenizer.pad_token_id)
    save_export(task_of(model, "t", task, tokenizer), "t", folder, Facts(), verify=True)
    rows = [Row(position, text, None, None, None) for position, text in enumerate(texts)]
    batch = collate(encode(rows, tokenizer, 64), np.arange(len(rows)), tokenizer.pad_token_id, "regression")
    again = AutoModelForSequenceClassification.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model("t", batch), again(**inputs).logits


TASK = {
    "type": "regression",
    "data": {"files": {"train": "a.csv", "validation": "b.csv"}, "columns": {"text_a": "a"}},
}
TEXTS = ["the film was awful and boring and i found it broken", "lovely"]


@pytest.mark.parametrize("own_id", [None, 5])
def test_an_export_pads_as_training_did(own_id: int | None, encoder_dir: Path, tmp_path: Path) -> None:
    """A tokenizer that pads on the left, and an encoder that has another padding id or none."""
    encoder = encoder_of("gpt2", encoder_dir, tmp_path / "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    tokenizer.save_pretrained(encoder)
    assert AutoTokenizer.from_pretrained(encoder).padding_side == "left"
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"pad_token_id": own_id}))
    logits, others = export_of(encoder, tmp_path / "export", TEXTS)
    alone, _ = export_of(encoder, tmp_path / "alone", TEXTS[1:])
    torch.testing.assert_close(logits, others, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits[1:], alone, rtol=0, atol=1e-5)
    assert abs(logits[0] - logits[1]).item() > 1e-3


def test_a_class_of_tokenizers_that_pads_on_the_left_is_saved_as_training_pads(tmp_path: Path) -> None:
    tokenizer = LlamaTokenizer(
        vocab={"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3, "a": 4}, merges=[], pad_token="<pad>"
    )
    tokenizer.save_pretrained(tmp_path / "own")
    padding_on_the_right(tokenizer).save_pretrained(tmp_path / "exported")
    sides = [AutoTokenizer.from_pretrained(tmp_path / name).padding_side for name in ("own", "exported")]
    assert sides == ["left", "right"] and tokenizer.padding_side == "left"


def test_padding_is_known_to_the_part_that_reads_texts(encoder_dir: Path, tmp_path: Path) -> None:
    encoder = encoder_of("gpt2", encoder_dir, tmp_path / "gpt2")
    task, _ = complete("t", Sourced(dict(TASK)))
    assert task is not None
    model = build_model(str(encoder), {"t": task}, seed=0)
    config = model.task_model("t").config
    config.text_config = GPT2Config(vocab_size=300)  # as of a model that reads images too
    model.pad_with(7)
    assert (config.pad_token_id, config.text_config.pad_token_id) == (7, 7)


def test_attention_of_bigbird_s_relative_is_full_too(encoder_dir: Path, tmp_path: Path) -> None:
    encoder = encoder_of("bigbird-pegasus", encoder_dir, tmp_path / "bigbird-pegasus")
    task, _ = complete("t", Sourced(dict(TASK)))
    assert task is not None
    model = build_model(str(encoder), {"t": task}, seed=0)
    assert model.encoder.get_encoder().attention_type == model.task_model("t").config.attention_type == "original_full"


def test_attention_of_bigbird_does_not_depend_on_what_ran_before(encoder_dir: Path, tmp_path: Path) -> None:
    encoder = encoder_of("bigbird", encoder_dir, tmp_path / "bigbird")
    task, _ = complete("t", Sourced(dict(TASK)))
    assert task is not None
    model = build_model(str(encoder), {"t": task}, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 300, (1, 512), generator=generator)
    with torch.no_grad():
        first = model.task_model("t")(ids).logits
        model.task_model("t")(ids[:, :8])
        torch.testing.assert_close(model.task_model("t")(ids).logits, first, rtol=0, atol=0)
    assert model.task_model("t").config.attention_type == "original_full"


def test_token_types_in_the_table_of_words_are_not_perturbed(encoder_dir: Path, corpus: Path, tmp_path: Path) -> None:
    encoder = encoder_of("gpt2", encoder_dir, tmp_path / "gpt2")
    setup = make_setup(corpus, encoder, tmp_path)
    stream = setup.streams["strength"]
    batch = collate(stream.examples, np.arange(2), setup.tokenizer.pad_token_id, "regression")
    assert batch.token_type_ids is not None
    model, delta = setup.objective.model.eval(), torch.full((*batch.input_ids.shape, 32), 0.05)
    seen = []
    norm = model.encoder.h[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model("strength", batch)
        model("strength", batch, delta)
    norm.remove()
    torch.testing.assert_close(seen[1] - seen[0], delta, rtol=0, atol=1e-6)


def test_embeddings_of_an_encoder_and_a_decoder_are_the_encoder_s(encoder_dir: Path, tmp_path: Path) -> None:
    encoder = encoder_of("t5", encoder_dir, tmp_path / "t5")
    task, _ = complete("t", Sourced(dict(TASK)))
    assert task is not None
    tokenizer, model = load_tokenizer(str(encoder)), build_model(str(encoder), {"t": task}, seed=0).eval()
    loaded = Model(tmp_path, "best", {"t": task_of(model, "t", task, tokenizer)})
    found = loaded.embed(["lovely"])
    with torch.no_grad():
        states = model.encoder.get_encoder()(**tokenizer("lovely", return_tensors="pt")).last_hidden_state
    np.testing.assert_allclose(found, states.mean(dim=1).numpy(), rtol=0, atol=1e-5)
    assert loaded.embed([]).shape == (0, 32)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_an_end_token_within_a_text_is_text_to_an_encoder_with_decoder(
    kind: str, encoder_dir: Path, tmp_path: Path
) -> None:
    """Transformers refuses a batch whose rows differ in the number of end tokens."""
    encoder = encoder_of(kind, encoder_dir, tmp_path / kind)
    task, _ = complete("t", Sourced(dict(TASK)))
    assert task is not None
    model, tokenizer = build_model(str(encoder), {"t": task}, seed=0).eval(), load_tokenizer(str(encoder))
    texts = ["a lovely film", "a [SEP] film"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert (batch["input_ids"] == model.encoder.config.eos_token_id).sum(dim=1).tolist() == [1, 1]
    with torch.no_grad():
        outputs = model.task_model("t")(batch["input_ids"], attention_mask=batch["attention_mask"])
    assert outputs.logits.isfinite().all()
    tokenizer.save_pretrained(tmp_path / "export")
    assert AutoTokenizer.from_pretrained(tmp_path / "export")(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    bert = load_tokenizer(str(encoder_dir))
    assert bert("a [SEP] film")["input_ids"].count(bert.sep_token_id) == 2, "others take it as it is"
    assert tokenizer_fingerprint(tokenizer) != tokenizer_fingerprint(bert)


def test_an_encoder_that_wants_more_than_texts_is_refused(encoder_dir: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="xmod cannot be run on texts alone: Input language unknown"):
        warnings_of("xmod", encoder_dir, corpus, tmp_path)


def test_padding_is_known_to_an_encoder_whose_configuration_names_none(
    encoder_dir: Path, corpus: Path, tmp_path: Path
) -> None:
    assert warnings_of("gpt2", encoder_dir, corpus, tmp_path) == []


def test_padding_that_an_architecture_adds_is_not_perturbed(encoder_dir: Path, corpus: Path, tmp_path: Path) -> None:
    """Longformer pads to its window: a step with R_s works, and δ = 0 changes no bit."""
    encoder = encoder_of("longformer", encoder_dir, tmp_path / "longformer")
    setup = make_setup(corpus, encoder, tmp_path)
    assert architecture_warnings(setup.objective, setup.streams, setup.tokenizer) == []
    trainer = setup.trainer(Quiet(), Quiet())  # type: ignore[arg-type]
    trainer.step(0)
    assert float(trainer._unwritten[0]["smart"]) > 0


@pytest.mark.parametrize("kind", ["longformer", "squeezebert"])
def test_half_precision_is_checked_where_layers_pad_or_are_not_called(
    kind: str, encoder_dir: Path, corpus: Path, tmp_path: Path
) -> None:
    encoder = encoder_of(kind, encoder_dir, tmp_path / kind)
    setup = make_setup(corpus, encoder, tmp_path, "train.precision=bf16", "defaults.smart.epsilon=0.5")
    assert all("bf16" in warning for warning in check_model(setup))
    setup = make_setup(corpus, encoder, tmp_path, "train.precision=bf16", "defaults.smart.epsilon=1e-7")
    with pytest.raises(UserError, match="bf16 rounds away the perturbation of mood"):
        check_model(setup)


class Quiet:
    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        return lambda *_, **__: {}


def test_usual_encoders_pass(encoder_dir: Path, corpus: Path, tmp_path: Path) -> None:
    setup = make_setup(corpus, encoder_dir, tmp_path)
    training = setup.objective.training
    assert architecture_warnings(setup.objective, setup.streams, setup.tokenizer) == []
    assert setup.objective.training == training


@pytest.mark.parametrize(("pair", "told"), [("$A:0 $B:0", True), ("$A:0 $B:1", False), ("$A:0 [SEP]:0 $B:0", False)])
def test_pairs_without_a_boundary_are_told(
    pair: str, told: bool, encoder_dir: Path, corpus: Path, tmp_path: Path
) -> None:
    setup = make_setup(corpus, encoder_dir, tmp_path)
    special = [("[SEP]", setup.tokenizer.sep_token_id)]
    setup.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A:0", pair=pair, special_tokens=special
    )
    warning = "strength, answer: the tokenizer of bert marks no boundary between the texts of a pair"
    assert architecture_warnings(setup.objective, setup.streams, setup.tokenizer) == ([warning] if told else [])
