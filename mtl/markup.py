"""HTML and SVG from elements. What is no `Html` is text, and is escaped: there is no way to forget it.

Only this module makes `Html`; a test holds all others to that. Characters that would steer the reader's eye instead of
being read (control characters, bidirectional overrides, lone surrogates) are written out as Python writes them.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable
from typing import TypeAlias

Child: TypeAlias = "Html | str | int | float | Iterable[Child] | None"
Attribute: TypeAlias = "str | int | float | bool | None"

UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # Unicode categories that are not read
KEPT = "\n\t\u200c\u200d"  # the last two join and part letters in several scripts, and emoji
VOID = ("meta", "link", "br", "hr", "col")


class Html(str):
    """Markup that is finished. Every operation of `str` on it gives a plain text again."""

    __slots__ = ()


def visible(text: str) -> str:
    """A text with the characters that cannot be seen written out, such as ``\\u202e``."""
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape", "surrogatepass").decode()
        if unicodedata.category(c) in UNSEEN and c not in KEPT
        else c
        for c in text
    )


def element(tag: str, *children: Child, **attributes: Attribute) -> Html:
    """One element.

    Args:
        tag: Its name.
        children: Finished markup, texts and numbers (escaped), None (nothing), or several of them.
        attributes: An underscore at the end is left off (`class_`), others are dashes (`aria_label`). None leaves the
            attribute out, True writes its name alone.
    """
    words = [tag]
    for key, value in attributes.items():
        name = key.removesuffix("_").replace("_", "-")
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words.append(f'{name}="{html.escape(visible(str(value)))}"')
    opened = f"<{' '.join(words)}>"
    return Html(opened if tag in VOID else f"{opened}{group(*children)}</{tag}>")


def group(*children: Child) -> Html:
    """Children side by side, without an element around them."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, (str, int, float)):
            parts.append(html.escape(visible(str(child))))
        else:
            parts.append(group(*child))
    return Html("".join(parts))


def page(*children: Child) -> Html:
    """A whole document."""
    return Html(f"<!doctype html>\n{group(*children)}\n")


def style_sheet(css: str) -> Html:
    """A style element. The sheet is ours; no text of a user's may go into one."""
    assert "</" not in css, "it would end the element"
    return Html(f"<style>\n{css}</style>")
