"""The records page: one HTML document that loads nothing from other addresses."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@cache
def document() -> bytes:
    """The page as HTML in UTF-8; its content security policy allows only its own script and style."""
    page = _read("records.html")
    for name in ("records.css", "records.js"):
        text = _read(name)
        page = page.replace("{{hash of " + name + "}}", _hash(text)).replace("{{" + name + "}}", text)
    return page.encode()


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
