"""The chat page: one HTML document, joined from the files of this folder, that loads nothing from other addresses.

STYLES and SCRIPTS, in their order -> page.html -> document()
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
STYLES = ("vendor/Temml-Local.css", "style.css", "reading/style.css")
SCRIPTS = (
    "vendor/marked.umd.js",
    "vendor/temml.min.js",
    "strings.js",
    "store.js",
    "elements.js",
    "reading/highlight.js",
    "reading/formulas.js",
    "reading/markdown.js",
    "reading/tokens.js",
    "files/upload.js",
    "files/export.js",
    "files/import.js",
    "view.js",
    "sides.js",
    "server.js",
    "asking.js",
    "actions.js",
    "main.js",
)


@cache
def document() -> bytes:
    """The page as HTML in UTF-8; its content security policy allows only its own script and style."""
    # Temml's font of script letters and primes would have to be fetched.
    style = re.sub(r"@font-face \{[^}]*\}\n", "", "\n".join(map(_read, STYLES)))
    page = _read("page.html")
    # Debuggers would request the source map from the server, which does not have it.
    script = re.sub(r"\n//# sourceMappingURL=.*", "", "\n".join(map(_read, SCRIPTS)))
    parts = {"style": style, "script": script, "style_hash": _hash(style), "script_hash": _hash(script)}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page).encode()


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
