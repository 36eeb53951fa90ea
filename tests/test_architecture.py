"""Encoders that do not do what training supposes are refused or told of, before a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_mixed_steps import make_setup
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    CanineConfig,
    FNetConfig,
    GPT2Config,
    IBertConfig,
    LongformerConfig,
    PerceiverConfig,
    SqueezeBertConfig,
    XLNetConfig,
    XmodConfig,
)

from mtl.architecture import architecture_warnings
from mtl.errors import UserError
from mtl.native_head import quiet_transformers
from mtl.run_setup import check_model

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
        ("perceiver", "perceiver has no table of word embeddings, which SMART perturbs; use --no-smart"),
        ("canine", "canine has no table of word embeddings, which SMART perturbs; use --no-smart"),
    ],
)
def test_an_encoder_with_another_kind_of_table_trains_without_smart(
    kind: str, fault: str, encoder_dir: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=fault):
        warnings_of(kind, encoder_dir, corpus, tmp_path)
    warnings_of(kind, encoder_dir, corpus, tmp_path, "train.smart=false", "train.proximal=false")


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
