"""HTML and SVG built from elements. Everything that is not an `Html` object is escaped automatically.

Only this module creates `Html`, which a test enforces. Invisible characters that could mislead a reader (control
characters, bidirectional overrides, lone surrogates) are shown as Python escape sequences.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable
from typing import TypeAlias

Child: TypeAlias = "Html | str | int | float | Iterable[Child] | None"
Attribute: TypeAlias = "str | int | float | bool | None"

UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # Unicode categories of invisible characters
KEPT = "\n\t\u200c\u200d"  # the last two are the (non-)joiners that several scripts and emoji need
VOID = ("meta", "link", "br", "hr", "col")


class Html(str):
    """Finished markup. Every operation of `str` on it returns a plain `str`, which is escaped again."""

    __slots__ = ()


def visible(text: str) -> str:
    """A text with invisible characters replaced by escape sequences, such as ``\\u202e``."""
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
        tag: Tag name.
        children: Finished markup, texts and numbers (escaped), None (omitted), or iterables of these.
        attributes: A trailing underscore is removed (`class_`), other underscores become dashes (`aria_label`). None
            and False omit the attribute, True writes its name without a value.
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
    """Concatenates children without an enclosing element."""
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
    """A complete HTML document."""
    return Html(f"<!doctype html>\n{group(*children)}\n")


def style_sheet(css: str) -> Html:
    """A style element. It is not escaped: the style sheet must not contain text from users."""
    assert "</" not in css, "it would end the element"
    return Html(f"<style>\n{css}</style>")
