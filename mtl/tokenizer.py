"""The encoder's tokenizer and configuration, as a run needs them."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

from mtl.errors import UserError, load_failure

TYPES = "token_type_ids"
UNBOUNDED = 1_000_000  # tokenizers without a limit name a larger one
# Architectures that count positions from the padding id on, as RoBERTa does, so that fewer are left for tokens.
COUNT_FROM_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}


def load_tokenizer(encoder: str, *, trust_remote_code: bool = False) -> Any:
    """Loads the encoder's tokenizer.

    Raises:
        UserError: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise UserError.of(encoder, f"the tokenizer cannot be loaded: {load_failure(error)}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # Transformers makes one where there is none
        message = "holds no tokenizer: every word would be unknown; save the model's own beside it (save_pretrained)"
        raise UserError.of(encoder, message)
    if tokenizer.pad_token_id is None:
        message = (
            "the tokenizer has no padding token; give it one (tokenizer.pad_token = …) and save it beside the model"
        )
        raise UserError.of(encoder, message)
    if TYPES in tokenizer.model_input_names:
        config = load_config(encoder, trust_remote_code=trust_remote_code)
        if getattr(config, "type_vocab_size", None) == 1:  # it knows the type 0 alone, which stands for all
            names = [name for name in tokenizer.model_input_names if name != TYPES]
            return AutoTokenizer.from_pretrained(encoder, trust_remote_code=trust_remote_code, model_input_names=names)
    return tokenizer


def load_config(encoder: str, *, trust_remote_code: bool = False) -> Any:
    """Loads the encoder's configuration.

    Raises:
        UserError: It cannot be loaded.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(encoder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise UserError.of(encoder, f"the configuration cannot be loaded: {load_failure(error)}") from error


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A digest of all that decides which ids a text gets."""
    return _fingerprint(tokenizer, len(tokenizer))


@lru_cache(maxsize=1)
def _fingerprint(tokenizer: Any, size: int) -> str:
    """The same, computed once: `size` changes with words that are added."""
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["padding"] = state["truncation"] = None
    else:
        state = {"vocabulary": tokenizer.get_vocab(), "settings": repr(sorted(tokenizer.init_kwargs.items(), key=str))}
    described = [type(tokenizer).__name__, state, sorted(tokenizer.model_input_names)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def usable_length(tokenizer: Any, config: Any) -> int:
    """The longest input, in tokens, that both tokenizer and encoder take."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < UNBOUNDED else []
    positions = getattr(config, "max_position_embeddings", None)
    if positions and positions > 0:  # XLNet, which has no limit, says −1
        limits.append(positions - (config.pad_token_id + 1 if config.model_type in COUNT_FROM_PADDING else 0))
    return min(limits, default=UNBOUNDED)
