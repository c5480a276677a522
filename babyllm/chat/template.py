"""Where a chat template comes from, and all that is done with one.

a built-in's name | a Jinja file | what is stored with a tokenizer -> load_template -> ChatTemplate
    -> render -> ids and turns      -> prompt -> ids      -> fit -> ids and turns in limited room
"""

from __future__ import annotations

import re
from pathlib import Path

from babyllm.chat.fit import Fitted, Outcome, TooLong, fit
from babyllm.chat.jinja import literals
from babyllm.chat.render import ChatTemplate, Rendered
from babyllm.chat.supervise import Supervise, split_turns
from babyllm.chat.templates import TEXTS, built_in
from babyllm.errors import UserError
from babyllm.json_fields import Fields, read_json
from babyllm.tokenizer import Tokenizer

__all__ = [
    "ChatTemplate",
    "Fitted",
    "Outcome",
    "Rendered",
    "Supervise",
    "TooLong",
    "fit",
    "load_template",
    "split_turns",
    "stored_template",
]

DEFAULT = "chatml"
TOKEN = re.compile(r"<[|｜][^<>\s]+[|｜]>")  # how special tokens look that a vocabulary may lack


def load_template(
    name_or_path: str | None, tokenizer: Tokenizer, directory: Path | None = None, efficient_eos: bool = False
) -> ChatTemplate:
    """The template of a name or file, with a tokenizer that has its special tokens.

    Args:
        name_or_path: chatml, llama3, llama2, alpaca, plain or the path of a Jinja file; None takes the template stored
            in `directory`, or else chatml.
        tokenizer: extended where it lacks tokens that a template spells out, unless that is stored with it.
        directory: of the tokenizer's files. A template stored there may lack `{% generation %}`: it serves to chat.
        efficient_eos: let an answer's end token be all that separates it from the next turn; of a built-in template.

    Raises:
        UserError: there is no such template, it does not mark answers, or it cannot be used.
    """
    file, stored = _stored(directory) if name_or_path is None and directory is not None else (None, None)
    if stored is not None:
        known = next((name for name in TEXTS if stored in (built_in(name), built_in(name, True))), None)
        where = f"{file}: the chat template" if file and file.suffix == ".json" else str(file)
        _require_built_in(efficient_eos, known is not None, where)
        return ChatTemplate(built_in(known, True) if known and efficient_eos else stored, tokenizer, where)
    name = name_or_path or DEFAULT
    where = f"template {name}"
    _require_built_in(efficient_eos, name in TEXTS, where)
    source = built_in(name, efficient_eos) if name in TEXTS else _read(name)
    named = [token for text in literals(source, where) for token in TOKEN.findall(text)]
    template = ChatTemplate(source, tokenizer.extended(named), where)
    template.require_marks()
    return template


def _require_built_in(efficient_eos: bool, is_built_in: bool, where: str) -> None:
    if efficient_eos and not is_built_in:
        raise UserError(f"{where}: efficient_eos is for built-in templates ({', '.join(TEXTS)}); leave it off")


def _read(path: str) -> str:
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no chat template {path!r}: give {', '.join(TEXTS)} or the path of a Jinja file")
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from None


def stored_template(directory: Path) -> str | None:
    """The chat template among a tokenizer's files: that of `chat_template.jinja` or else `tokenizer_config.json`.

    Raises:
        UserError: a file cannot be read, or holds something else in its place.
    """
    return _stored(directory)[1]


def _stored(directory: Path) -> tuple[Path, str | None]:
    """The file that may hold a template, and the template."""
    if (file := directory / "chat_template.jinja").is_file():
        return file, _read(str(file))
    file = directory / "tokenizer_config.json"
    if not file.is_file():
        return file, None
    config = read_json(file)
    fields = Fields(config, str(file))
    if not fields.is_list("chat_template"):
        return file, fields.text("chat_template", None)
    for i, entry in enumerate(config["chat_template"]):  # several by name
        if not isinstance(entry, dict):
            raise UserError(f"{file}: chat_template[{i}] is no object with a name and a template")
        one = Fields(entry, f"{file}: chat_template[{i}]")
        if one.text("name") == "default":
            return file, one.text("template")
    return file, None
