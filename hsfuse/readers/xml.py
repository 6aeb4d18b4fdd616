"""XML of products, read safely: no entities, no external references, a limit to the size."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from math import isfinite
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from hsfuse.errors import InputError

REDOWNLOAD = "The product seems to be damaged or incomplete; download or unpack it again."


def parse_xml(content: bytes, name: str) -> Element:
    """Parse XML safely (no entities, no external references).

    Raises
    ------
    InputError
        The content is not well-formed XML.
    """
    try:
        root: Element = ElementTree.fromstring(content)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise InputError(f"The metadata file {name} is damaged: {error}.", hint=REDOWNLOAD) from error
    return root


def local_name(element: Element) -> str:
    """Tag without its name space."""
    return str(element.tag).rsplit("}", 1)[-1]


def find_all(root: Element, *names: str) -> Iterator[Element]:
    """Elements below ``root`` with one of the local names, in document order."""
    for element in root.iter():
        if local_name(element) in names:
            yield element


def text_of(root: Element, *names: str) -> str | None:
    """Text of the first element with one of the local names that has any."""
    for element in find_all(root, *names):
        if element.text and element.text.strip():
            return element.text.strip()
    return None


def number_of(text: str | None) -> float | None:
    """Return a finite number, None for anything else."""
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and isfinite(value) else None


def time_of(text: str | None) -> datetime | None:
    """Return a moment (UTC where the text names no zone), None for anything else."""
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC) if moment else None


def number_at(root: Element, path: str) -> float | None:
    """Return the number of the element at a path, None when there is none."""
    return number_of((root.findtext(path) or "").strip())
