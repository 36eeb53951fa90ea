"""Provenance of an encoder: the name the user gave, its hub id, and the licence stated by its model card.

Nothing is guessed: without a card, or with a card that states no licence or several, the licence is unknown.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from mtl.encoder import HUB_ID
from mtl.errors import UserError
from mtl.plain_data import parse_yaml

CARD = "README.md"
MAX_CARD = 1 << 20  # characters of a card that are read
LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
LICENCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_ .+-]{0,99}")
LICENCE_LINK = re.compile(r"https://[!-~]{1,500}")
ENTRY = re.compile(r"^license(?:_name|_link)?:.*(?:\n[ \t-].*)*", re.MULTILINE)  # a top-level key with its value


def _hub_id(text: str) -> str:
    if not HUB_ID.fullmatch(text):
        raise ValueError("no hub id")
    return text


class Licence(BaseModel):
    """A licence in the hub's notation.

    Attributes:
        id: The hub's identifier, such as apache-2.0.
        name: Name of a licence without an identifier of its own (`other`).
        link: URL of its text.
    """

    id: Annotated[str, Field(pattern=f"^{LICENCE_ID.pattern}$")]
    name: Annotated[str, Field(pattern=f"^{LICENCE_NAME.pattern}$")] | None = None
    link: Annotated[str, Field(pattern=f"^{LICENCE_LINK.pattern}$")] | None = None


class Phase(BaseModel):
    """An earlier, finished run that trained the encoder: its tasks and steps."""

    tasks: list[str]
    steps: int


class Origin(BaseModel):
    """Provenance of a run's encoder.

    Attributes:
        encoder: The encoder of the first run: hub id, absolute directory, or `pkg:PACKAGE/SUBDIR`.
        hub_id: Its hub id, if it came from the hub.
        licence: The licence that its card states.
        phases: The runs that have trained it since, in order.
    """

    encoder: str
    hub_id: Annotated[str, AfterValidator(_hub_id)] | None = None
    licence: Licence | None = None
    phases: list[Phase] = []


def find_origin(spec: str, encoder: str) -> Origin:
    """Determine the origin of an encoder from its name and its card.

    Args:
        spec: The name that the user gave.
        encoder: The directory or hub id to which `find_encoder` resolved it.
    """
    folder = Path(encoder)
    if folder.is_absolute():
        return Origin(encoder=spec, licence=_stated(folder / CARD))
    card = _from_hub(encoder)
    return Origin(encoder=spec, hub_id=encoder, licence=None if card is None else _stated(card))


def _from_hub(hub_id: str) -> Path | None:
    """Path of a hub model's card, downloaded or, without a network, from the local cache; None if there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        return Path(hf_hub_download(hub_id, CARD))
    except (EntryNotFoundError, HfHubHTTPError, OSError):  # it has no card, or the hub cannot be reached
        return None


def _stated(card: Path) -> Licence | None:
    try:
        with card.open(encoding="utf-8-sig") as file:
            text = file.read(MAX_CARD)
    except (OSError, UnicodeError):
        return None
    return licence_of(text)


def licence_of(card: str) -> Licence | None:
    """Return the licence that a card's metadata states; None unless there is exactly one.

    Only its lines are parsed as YAML, since the metadata of some cards contains thousands of results.
    """
    start, _, rest = card.partition("\n")
    metadata, end, _ = rest.partition("\n---")
    if start.strip() != "---" or not end:
        return None
    try:
        found, problems = parse_yaml("\n".join(entry[0] for entry in ENTRY.finditer(metadata)), CARD)
    except UserError:  # no licence, or not YAML
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
