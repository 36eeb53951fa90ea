"""Guesses the encoding of a text file."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from mtl.file_formats import marked_encoding

# What Western European text decoded as cp1252 hardly ever contains: other letters (š is in cp1250 too, ð stands for
# Turkish ğ), four non-ASCII characters in a row, and marks after a letter whose bytes are letters in other encodings.
FOREIGN = re.compile(
    r"[^\x01-\x7f\xa0À-ÏÑ-ÖØ-ÜßáàâãäåæçèéêëìíîïñòóôõöøùúûüÿŒœŸ€‚„…‘’“”•–—™¡£¥§©ª«®°²³´·¹º»¼½¾¿]"
    r"|[^\x00-\x7f]{4}|[^\W\d_][ª²³¹º¼½¾‚„]"
)


def _is_western(text: str) -> bool:
    return not FOREIGN.search(text) and ("õ" not in text or "ã" in text)  # Portuguese has both, Hungarian ő there


def guessed_encoding(path: Path) -> str | None:
    """Guess the encoding of a text file; None if its byte-order mark or UTF-8 fits, or no guess is possible.

    Western European text is detected first, as a few rows of it are too little for charset_normalizer.
    """
    from charset_normalizer import from_bytes

    decoder = codecs.getincrementaldecoder(marked_encoding(path))()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            try:
                if "\0" not in decoder.decode(block):
                    continue
            except UnicodeDecodeError:
                pass
            if _is_western(block.decode("cp1252", errors="replace")):
                return "cp1252"
            guess = from_bytes(block).best()
            western = guess is not None and "cp1252" in guess.could_be_from_charset
            return "cp1252" if western else guess.encoding if guess else None
    return None
