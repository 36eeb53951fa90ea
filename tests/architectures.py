"""Tiny random configurations of the architectures under test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

VOCABULARY = 100
PADDING = 1

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": PADDING,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # large enough that a wrong term changes the outputs
}

CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertConfig(**_COMMON),
    "roberta": lambda: RobertaConfig(**_COMMON, type_vocab_size=1),
    "xlm-roberta": lambda: XLMRobertaConfig(**_COMMON, type_vocab_size=1),
    "deberta-v2": lambda: DebertaV2Config(
        **_COMMON, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8, type_vocab_size=0
    ),
    "electra": lambda: ElectraConfig(**_COMMON, embedding_size=16),
    "albert": lambda: AlbertConfig(**_COMMON, embedding_size=16),
    "distilbert": lambda: DistilBertConfig(
        vocab_size=VOCABULARY, pad_token_id=PADDING, dim=32, n_layers=2, n_heads=4, hidden_dim=48,
        max_position_embeddings=64, initializer_range=0.2,
    ),
    "mpnet": lambda: MPNetConfig(**_COMMON),
    "modernbert": lambda: ModernBertConfig(
        **_COMMON, global_attn_every_n_layers=2, local_attention=8, cls_token_id=2, sep_token_id=3,
        bos_token_id=2, eos_token_id=3,
    ),
}  # fmt: skip


def save_random_encoder(name: str, folder: Any) -> None:
    """Writes a seeded random checkpoint of an architecture."""
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(CONFIGS[name]()).save_pretrained(folder)
