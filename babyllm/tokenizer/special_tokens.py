"""What is asked of a vocabulary to train, above all its special tokens: names, order and roles."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from babyllm.errors import UserError
from babyllm.tokenizer.borders import PreSplit

USUAL = (
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|reserved_{i}|>" for i in range(10)),
)
"""The special tokens of a vocabulary whose settings name no others."""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a vocabulary to train, and which of them has which role.

    Attributes:
        first: names of the special tokens before all other tokens, with the ids 0, 1, ...
        last: names of the special tokens after all other tokens, with the highest ids.
        bos: name of the token that begins a document; null for none.
        eos: name of the token that ends a document.
        pad: name of the token of padding; null for none.
        unk: name of the token of unknown characters; null for none, which only byte_bpe allows.
    """

    first: list[str] = field(default_factory=lambda: list(USUAL))
    last: list[str] = field(default_factory=list)
    bos: str | None = "<s>"
    eos: str = "</s>"
    pad: str | None = "<pad>"
    unk: str | None = "<unk>"

    def with_names(self, names: Sequence[str]) -> SpecialTokens:
        """The same with each of `names` that is missing, after those of `first`."""
        missing = [name for name in dict.fromkeys(names) if name not in self.names()]
        return replace(self, first=[*self.first, *missing])

    def names(self) -> list[str]:
        """All names, in the order of their ids."""
        return [*self.first, *self.last]

    def roles(self) -> dict[str, str | None]:
        """Name of the token of each role, None if there is none."""
        return {"bos": self.bos, "eos": self.eos, "pad": self.pad, "unk": self.unk}

    def check(self, symbols: Sequence[str], *, needs_unknown: bool) -> None:
        """Check the names and roles, and the symbols beside them.

        Args:
            symbols: texts that are always one token.
            needs_unknown: whether the vocabulary must have a token of unknown characters, before all others.

        Raises:
            UserError: a name is empty, given twice or that of a byte; a role's token is missing; a symbol is empty, has
                whitespace, is given twice or is a special token.
        """
        names = self.names()
        for name in names:
            if not name or names.count(name) > 1 or _is_byte(name):
                raise UserError(f"special: {name!r} is empty, given twice or the name of a byte; leave it out")
        for role, chosen in self.roles().items():
            if chosen is not None and chosen not in names:
                raise UserError(
                    f"special.{role} is {chosen!r}, which is neither in special.first nor in special.last; add it "
                    f"there, or set special.{role} to another name{'' if role == 'eos' else ' or null'}"
                )
        if needs_unknown and self.unk not in self.first:
            raise UserError("special.unk must name a token of special.first: only byte_bpe works without one")
        for symbol in symbols:
            if not symbol or "▁" in symbol or any(map(str.isspace, symbol)) or symbols.count(symbol) > 1:
                raise UserError(f"symbols: {symbol!r} is empty, holds whitespace or is given twice; leave it out")
            if symbol in names or _is_byte(symbol):
                raise UserError(f"symbols: {symbol!r} is the name of a special token; leave it out")

    def check_ids(self, special: Mapping[str, int], vocab_size: int) -> None:
        """Check that a trained vocabulary has the special tokens at their places.

        Args:
            special: ids of the vocabulary's special tokens, by name.
            vocab_size: number of tokens of the vocabulary.

        Raises:
            UserError: a name has another id, because the text made an ordinary token of it.
        """
        begin = vocab_size - len(self.last)
        expected = {name: i for i, name in enumerate(self.first)} | {n: begin + i for i, n in enumerate(self.last)}
        if wrong := [name for name, i in expected.items() if special.get(name) != i]:
            raise UserError(f"special: {wrong[0]!r} also became an ordinary token of this text; choose another name")


@dataclass(frozen=True)
class Wanted:
    """What is asked of a vocabulary to train; `Tokenizer.train` explains the values.

    Attributes:
        vocab_size: number of tokens, special ones included.
        special: names, order and roles of the special tokens.
        symbols: texts that are always one token.
        character_coverage: share of the text's characters that become tokens.
        hard_vocab_limit: whether fewer tokens than `vocab_size` are refused.
        pre_split: "jieba" for borders around its words; None for none.
        n_threads: number of threads; None for all cores.
    """

    vocab_size: int
    special: SpecialTokens
    symbols: Sequence[str]
    character_coverage: float
    hard_vocab_limit: bool
    pre_split: PreSplit | None
    n_threads: int | None

    def size_without_last(self) -> int:
        """Number of tokens before the special tokens that come last."""
        return self.vocab_size - len(self.special.last)

    def require_filled(self, found: int) -> None:
        """Check that a text yields enough tokens, if that is asked for.

        Args:
            found: number of tokens that it yields.

        Raises:
            UserError: there are fewer than `vocab_size`.
        """
        if self.hard_vocab_limit and found < self.vocab_size:
            raise UserError(
                f"vocab_size {self.vocab_size} is too large: this text yields at most {found}; take that, give more "
                "text, or set hard_vocab_limit to false, which takes as many as there are"
            )


def _is_byte(name: str) -> bool:
    return re.fullmatch("<0x[0-9A-F]{2}>", name) is not None
