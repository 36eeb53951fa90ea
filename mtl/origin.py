"""Where an encoder comes from: what the user named, its id on the hub, and the licence that its own card states.

Nothing is guessed. Without a card, or with a card that states no licence or several, the licence is unknown.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from mtl.encoder import HUB_ID
from mtl.errors import UserError
from mtl.settings import parse_yaml

CARD = "README.md"
MAX_CARD = 1 << 20  # characters of a card that are looked at
LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
LICENCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_ .+-]{0,99}")
LICENCE_LINK = re.compile(r"https://[!-~]{1,500}")
ENTRY = re.compile(r"^license(?:_name|_link)?:.*(?:\n[ \t-].*)*", re.MULTILINE)  # a key at the margin, with its value


def _hub_id(text: str) -> str:
    if not HUB_ID.fullmatch(text):
        raise ValueError("no hub id")
    return text


class Licence(BaseModel):
    """A licence as the hub writes it.

    Attributes:
        id: The hub's identifier, such as apache-2.0.
        name: Of a licence that has none (`other`).
        link: Its text.
    """

    id: Annotated[str, Field(pattern=f"^{LICENCE_ID.pattern}$")]
    name: Annotated[str, Field(pattern=f"^{LICENCE_NAME.pattern}$")] | None = None
    link: Annotated[str, Field(pattern=f"^{LICENCE_LINK.pattern}$")] | None = None


class Phase(BaseModel):
    """A finished run that trained the encoder before: its tasks and steps."""

    tasks: list[str]
    steps: int


class Origin(BaseModel):
    """What is known of a run's encoder.

    Attributes:
        encoder: What the first run began with: hub id, absolute directory, or `pkg:PACKAGE/SUBDIR`.
        hub_id: Its id on the hub, if it came from there.
        licence: What its card states.
        phases: Runs that trained it since, the first one first.
    """

    encoder: str
    hub_id: Annotated[str, AfterValidator(_hub_id)] | None = None
    licence: Licence | None = None
    phases: list[Phase] = []


def find_origin(spec: str, encoder: str) -> Origin:
    """Looks at the card of an encoder.

    Args:
        spec: What the user named.
        encoder: What `find_encoder` made of it, a directory or a hub id.
    """
    folder = Path(encoder)
    if folder.is_absolute():
        return Origin(encoder=spec, licence=_stated(folder / CARD))
    card = _from_hub(encoder)
    return Origin(encoder=spec, hub_id=encoder, licence=None if card is None else _stated(card))


def _from_hub(hub_id: str) -> Path | None:
    """The card of a model on the hub, or in the hub's cache where there is no network."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        return Path(hf_hub_download(hub_id, CARD))
    except (EntryNotFoundError, HfHubHTTPError, OSError):  # it has no card, or nobody can be asked
        return None


def _stated(card: Path) -> Licence | None:
    try:
        with card.open(encoding="utf-8-sig") as file:
            text = file.read(MAX_CARD)
    except (OSError, UnicodeError):
        return None
    return licence_of(text)


def licence_of(card: str) -> Licence | None:
    """The one licence that a card's metadata states.

    Its lines alone are read as YAML, as the metadata of some cards holds thousands of results.
    """
    start, _, rest = card.partition("\n")
    metadata, end, _ = rest.partition("\n---")
    if start.strip() != "---" or not end:
        return None
    try:
        found, problems = parse_yaml("\n".join(entry[0] for entry in ENTRY.finditer(metadata)), CARD)
    except UserError:  # none, or no YAML
        return None
    licence = found.data.get("license")
    if isinstance(licence, list) and len(licence) == 1:
        (licence,) = licence
    if problems or not isinstance(licence, str) or not LICENCE_ID.fullmatch(licence.lower()):
        return None
    name, link = found.data.get("license_name"), found.data.get("license_link")
    return Licence(
        id=licence.lower(),
        name=name if isinstance(name, str) and LICENCE_NAME.fullmatch(name) else None,
        link=link if isinstance(link, str) and LICENCE_LINK.fullmatch(link) else None,
    )
