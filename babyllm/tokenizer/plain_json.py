"""A `tokenizer.json` of any origin, read so that it adds, cuts and drops nothing, and tried out before it is used."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

from tokenizers import Tokenizer, models

from babyllm.errors import UserError, in_one_line

_NOTHING_ADDED: dict[str, Any] = {"truncation": None, "padding": None, "post_processor": None}
PROBE = "Aa 1, 今天\n"
T = TypeVar("T")


def read_tokenizer_json(source: bytes, where: str) -> tuple[Tokenizer, bytes]:
    """The tokenizer of a file and the bytes that define it, which differ from `source` if something was left out.

    Truncation, padding, special tokens that are added to texts, and random merges are left out. Where pieces are single
    characters and no decoder says how to join them, they are joined without spaces.

    Args:
        source: bytes of a `tokenizer.json`.
        where: name of the file in messages.

    Raises:
        UserError: the bytes are not a `tokenizer.json`, or encoding a short text with it fails.
    """
    tokenizer = _tried(lambda: Tokenizer.from_str(source.decode("utf-8")), f"{where} is not a tokenizer.json")
    is_random = getattr(tokenizer.model, "dropout", None) is not None
    adds = tokenizer.num_special_tokens_to_add(is_pair=False)
    if adds or tokenizer.truncation or tokenizer.padding or is_random or _joins_characters_with_spaces(tokenizer):
        source = _plain(source, tokenizer)
        tokenizer = Tokenizer.from_str(source.decode("utf-8"))
    _tried(
        lambda: tokenizer.decode(tokenizer.encode(PROBE, add_special_tokens=False).ids),
        f"{where}: cannot encode a short text",
    )
    tokenizer.encode_special_tokens = True
    return tokenizer, source


def with_bos(source: bytes, name: str, token_id: int) -> bytes:
    """A `tokenizer.json` with which other programs add a bos token to texts.

    Args:
        source: bytes of the file.
        name: name of the token.
        token_id: its id.
    """
    token, text = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    processor = {
        "type": "TemplateProcessing",
        "single": [token, text],
        "pair": [token, text, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {name: {"id": name, "ids": [token_id], "tokens": [name]}},
    }
    return json.dumps(json.loads(source) | {"post_processor": processor}, ensure_ascii=False).encode()


def is_plain(source: bytes) -> bool:
    """Whether `read_tokenizer_json` returns these bytes again after `with_bos`."""
    return json.dumps(json.loads(source) | _NOTHING_ADDED, ensure_ascii=False).encode() == source


def decoder_types(tokenizer: Tokenizer) -> set[str]:
    """Type names of a tokenizer's decoder and of the decoders inside it."""
    return set() if tokenizer.decoder is None else set(_types(json.loads(tokenizer.decoder.__getstate__())))


def _types(decoder: dict[str, Any]) -> Iterator[str]:
    yield decoder["type"]
    for part in decoder.get("decoders", []):
        yield from _types(part)


def _joins_characters_with_spaces(tokenizer: Tokenizer) -> bool:
    if not isinstance(tokenizer.model, models.WordLevel) or tokenizer.decoder is not None:
        return False
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    return all(len(piece) == 1 for piece in tokenizer.get_vocab() if piece not in added)


def _plain(source: bytes, tokenizer: Tokenizer) -> bytes:
    content = json.loads(source) | _NOTHING_ADDED
    content["model"].pop("dropout", None)
    if _joins_characters_with_spaces(tokenizer):
        content["decoder"] = {"type": "Fuse"}
    return json.dumps(content, ensure_ascii=False).encode()


def _tried(action: Callable[[], T], complaint: str) -> T:
    try:
        with _silent_if_it_fails():
            return action()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises nothing narrower, and some damage makes it panic
        raise UserError(f"{complaint}: {in_one_line(error)}") from None


@contextmanager
def _silent_if_it_fails() -> Iterator[None]:
    """Hold back what native code writes to standard error, and drop it if the body fails: the report of a panic."""
    with ExitStack() as stack:
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
            stderr = os.dup(2)
        except OSError:  # no place for a file, or a closed stream
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        held.seek(0)
        with suppress(OSError):
            os.write(2, held.read())
