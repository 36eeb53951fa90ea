"""Loading of the encoder's tokenizer and configuration, the tokenizer's fingerprint, and the maximum input length."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

from mtl.errors import UserError, load_failure

TYPES = "token_type_ids"
UNBOUNDED = 1_000_000  # tokenizers without a limit report a larger `model_max_length`
# Architectures whose position ids start after the padding id, as in RoBERTa, which leaves fewer positions for tokens.
COUNT_FROM_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet"),
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}


def load_tokenizer(encoder: str, *, trust_remote_code: bool = False) -> Any:
    """Load the encoder's tokenizer.

    That of an encoder with decoder takes `</s>` within a text for text: the head reads the last end token of a row, and
    Transformers demands as many of them in each.

    Raises:
        UserError: It cannot be loaded, is missing, or has no padding token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise UserError.of(encoder, f"the tokenizer cannot be loaded: {load_failure(error)}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # Transformers creates an empty one if files are missing
        message = "contains no tokenizer: every word would be unknown; save the model's own there (save_pretrained)"
        raise UserError.of(encoder, message)
    if tokenizer.pad_token_id is None:
        message = (
            "the tokenizer has no padding token; give it one (tokenizer.pad_token = …) and save it beside the model"
        )
        raise UserError.of(encoder, message)
    config = load_config(encoder, trust_remote_code=trust_remote_code)
    options: dict[str, Any] = {}
    if TYPES in tokenizer.model_input_names and getattr(config, "type_vocab_size", None) == 1:
        # Type 0 is the only one, and the default.
        options["model_input_names"] = [name for name in tokenizer.model_input_names if name != TYPES]
    if getattr(config, "is_encoder_decoder", False):
        options["split_special_tokens"] = True
    return (
        AutoTokenizer.from_pretrained(encoder, trust_remote_code=trust_remote_code, **options) if options else tokenizer
    )


def load_config(encoder: str, *, trust_remote_code: bool = False) -> Any:
    """Load the encoder's configuration.

    Raises:
        UserError: It cannot be loaded.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(encoder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise UserError.of(encoder, f"the configuration cannot be loaded: {load_failure(error)}") from error


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Digest of everything that determines the token ids of a text."""
    return _fingerprint(tokenizer, len(tokenizer))


@lru_cache(maxsize=1)
def _fingerprint(tokenizer: Any, size: int) -> str:
    """`tokenizer_fingerprint`, cached; `size` is part of the cache key because added tokens change it."""
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["padding"] = state["truncation"] = None
    else:
        state = {"vocabulary": tokenizer.get_vocab(), "settings": repr(sorted(tokenizer.init_kwargs.items(), key=str))}
    described = [type(tokenizer).__name__, state, sorted(tokenizer.model_input_names)]
    described += ["split special tokens"] if tokenizer.split_special_tokens else []
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def usable_length(tokenizer: Any, config: Any) -> int:
    """Longest input, in tokens, that both tokenizer and encoder accept."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < UNBOUNDED else []
    config = getattr(config, "text_config", config)  # of a model that reads more than texts
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)  # MPT
    if positions and positions > 0:  # XLNet, which has no limit, has −1
        limits.append(positions - (config.pad_token_id + 1 if config.model_type in COUNT_FROM_PADDING else 0))
    return min(limits, default=UNBOUNDED)
