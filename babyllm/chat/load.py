"""Chat templates: how to load one, and an overview of what it does.

a built-in's name | a Jinja file | a template stored with a tokenizer -> load_template -> ChatTemplate
    -> render -> ids and turns      -> prompt -> ids      -> fit -> ids and turns within a row's length
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from babyllm.chat.built_in import TEXTS, BuiltIn, built_in_of
from babyllm.chat.jinja.syntax import literals
from babyllm.chat.supervise import Supervise, split_turns
from babyllm.chat.template import ChatTemplate, Rendered
from babyllm.chat.too_long import Fitted, Outcome, TooLong, fit
from babyllm.config.json_fields import Fields, read_json
from babyllm.errors import UserError
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
TOKEN = re.compile(r"<[|｜][^<>\s]+[|｜]>")  # the usual form of special tokens, which a vocabulary may lack


def load_template(
    name_or_path: str | None,
    tokenizer: Tokenizer,
    directory: Path | None = None,
    efficient_eos: bool = False,
    default_system: str | None = None,
    allow_special: Sequence[str] = (),
) -> ChatTemplate:
    """The chat template of a name or file, with a tokenizer that has its special tokens.

    Args:
        name_or_path: chatml, llama3, llama2, alpaca, plain or the path of a Jinja file; None takes the template stored
            in `directory`, or else chatml.
        tokenizer: a tokenizer, which is extended by the special tokens that a template spells out. A stored template
            does not extend it.
        directory: the directory of the tokenizer's files. A template stored there may lack `{% generation %}`; it can
            be used for chatting but not for training.
        efficient_eos: whether only the end token separates an answer from the next turn; for built-in templates.
        default_system: the system message of conversations without one, for built-in templates; empty for none. None
            keeps the one of a stored template.
        allow_special: special tokens that contents may hold; the vocabulary is extended by them.

    Raises:
        UserError: there is no such template, it does not mark answers, or it cannot be used.
    """
    tokenizer = tokenizer.extended(allow_special)
    if default_system:
        _require_plain(default_system, tokenizer)
    file, stored = _stored(directory) if name_or_path is None and directory is not None else (None, None)
    if stored is not None:
        where = f"{file}: the chat template" if file and file.suffix == ".json" else str(file)
        source = _with_settings(stored, built_in_of(stored), efficient_eos, default_system, where)
        return ChatTemplate(source, tokenizer, where, allow_special)
    name = name_or_path or DEFAULT
    where = f"template {name}"
    known = BuiltIn(name) if name in TEXTS else None
    source = _with_settings("" if known else _read(name), known, efficient_eos, default_system or "", where)
    named = [token for text in literals(source, where) for token in TOKEN.findall(text)]
    template = ChatTemplate(source, tokenizer.extended(named), where, allow_special)
    template.require_marks()
    return template


def _with_settings(
    source: str, known: BuiltIn | None, efficient_eos: bool, default_system: str | None, where: str
) -> str:
    """A template's text; the settings apply to a built-in one."""
    if known:
        system = known.default_system if default_system is None else default_system
        return known._replace(efficient_eos=known.efficient_eos or efficient_eos, default_system=system).text()
    for setting, value in (("efficient_eos", efficient_eos), ("default_system", default_system)):
        if value:
            raise UserError(f"{where}: {setting} is for built-in templates ({', '.join(TEXTS)}); leave it off")
    return source


def _require_plain(system: str, tokenizer: Tokenizer) -> None:
    """Refuse a system message with special tokens: it becomes template text, where they would take effect."""
    found = [*(name for name in tokenizer.special if name in system), *TOKEN.findall(system)]
    if found:
        raise UserError(f"default_system: {found[0]} in it would be a special token; write it without")


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
        UserError: a file cannot be read, or its template is not a text.
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
    for i, entry in enumerate(config["chat_template"]):  # several templates with names
        if not isinstance(entry, dict):
            raise UserError(f"{file}: chat_template[{i}] is not an object with a name and a template")
        one = Fields(entry, f"{file}: chat_template[{i}]")
        if one.text("name") == "default":
            return file, one.text("template")
    return file, None
