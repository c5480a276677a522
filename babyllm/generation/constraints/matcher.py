"""The tokens that a constraint allows next, computed by llguidance over the bytes of a vocabulary's tokens.

Tokenizer, Constraint -> compiled once, kept for later requests -> a copy for each answer -> Matcher
    allowed: (V,) mask before each draw;  accept: the drawn token

A token is allowed if its bytes can go on from what was written, so a character may be spread over several tokens. End
tokens are allowed where the answer may end, and only they where nothing can follow.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from babyllm.errors import UserError
from babyllm.generation.constraints.constraint import Constraint
from babyllm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KEPT = 32
"""Largest number of compiled constraints that are kept for a tokenizer."""
MAX_LEXER_STATES = 50_000  # of 1 to 2 kB each
MAX_GRAMMAR_SIZE = 100_000  # symbols
_lock = threading.Lock()
_compilers: WeakKeyDictionary[Tokenizer, _Compiler] = WeakKeyDictionary()


class Broken(UserError):
    """An answer that cannot go on, because no token fits its constraint."""


class Matcher:
    """The tokens that may come next in one answer."""

    def __init__(self, matcher: LLMatcher, tokenizer: LLTokenizer, end_ids: Collection[int], vocab_size: int) -> None:
        """Begin an answer.

        Args:
            matcher: a copy of the compiled constraint.
            tokenizer: vocabulary that the constraint was compiled with.
            end_ids: ids of the tokens that end the answer, at least one.
            vocab_size: number of scores of the model, V.
        """
        self._matcher, self._eos_id = matcher, tokenizer.eos_token
        self._end_ids = frozenset(end_ids)
        self._n, self._n_written = vocab_size, 4 * -(-tokenizer.vocab_size // 32)
        # Rows of the model beyond the vocabulary are never allowed.
        self._words = np.zeros(max(self._n_written, -(-vocab_size // 8)) // 4 + 1, np.int32)
        self._bits = self._words.view(np.uint8)[: -(-vocab_size // 8)]
        self._ends = np.zeros_like(self._bits)
        for i in self._end_ids:
            if i < vocab_size:
                self._ends[i >> 3] |= 1 << (i & 7)

    def allowed(self) -> Tensor:
        """(V,) bool, whether each token may come next.

        Raises:
            Broken: none may.
        """
        return torch.from_numpy(np.unpackbits(self.packed(), bitorder="little", count=self._n).view(np.bool_))

    def packed(self) -> NDArray[np.uint8]:
        """(ceil(V / 8),) uint8, `allowed` as bits, the lowest one first; the next call overwrites it.

        Raises:
            Broken: none may.
        """
        bits = self._bits
        self._words[:] = 0
        if not self._matcher.is_error():
            self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._n_written)
        can_end = bits[self._eos_id >> 3] >> (self._eos_id & 7) & 1
        np.bitwise_or(bits, self._ends, out=bits)
        if not can_end:
            np.bitwise_xor(bits, self._ends, out=bits)
        if not bits.any():
            reason = _reason(self._matcher.get_error()) or "the vocabulary has no token that fits"
            raise Broken(f"the answer cannot go on within its constraint: {reason}")
        return bits

    def accept(self, token_id: int) -> None:
        """Go on after the token that was drawn, which was allowed."""
        if token_id not in self._end_ids:
            self._matcher.consume_token(token_id)


class _Compiler:
    """Compiled constraints over one vocabulary; safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = _vocabulary(tokenizer)
        self._compiled: OrderedDict[Constraint, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, constraint: Constraint, end_ids: Collection[int], vocab_size: int) -> Matcher:
        with self._lock:
            compiled = self._compiled.get(constraint)
        if compiled is None:
            compiled = self._compile(constraint)
        with self._lock:
            self._compiled[constraint] = compiled
            self._compiled.move_to_end(constraint)
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            copy = compiled.deep_copy()
        return Matcher(copy, self._tokenizer, end_ids, vocab_size)

    def _compile(self, constraint: Constraint) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(
            max_lexer_states=MAX_LEXER_STATES, max_grammar_size=MAX_GRAMMAR_SIZE, verbose_errors=False
        )
        try:
            compiled = LLMatcher(self._tokenizer, _grammar(constraint), log_level=0, limits=limits)
        except ValueError as error:
            raise UserError(f"the {constraint.name} cannot be used: {_reason(str(error))}") from None
        if compiled.is_error():
            raise UserError(f"the {constraint.name} cannot be used: {_reason(compiled.get_error())}")
        return compiled


def matcher_of(constraint: Constraint, tokenizer: Tokenizer, end_ids: Collection[int], vocab_size: int) -> Matcher:
    """The matcher of a new answer.

    Args:
        constraint: what the answer may say.
        tokenizer: tokenizer of the model.
        end_ids: ids of the tokens that end the answer, at least one.
        vocab_size: number of scores of the model, V; at least the tokenizer's size.

    Raises:
        UserError: llguidance is not installed, or the constraint is wrong, cannot be met, or is too large.
    """
    if not end_ids:
        raise UserError("a constraint needs end_ids, the ids of tokens that end the answer")
    with _lock:
        compiler = _compilers.get(tokenizer)
        if compiler is None:
            compiler = _compilers[tokenizer] = _Compiler(tokenizer)
    return compiler.matcher(constraint, end_ids, vocab_size)


def _vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    try:
        from llguidance import LLTokenizer, TokenizerWrapper
    except ImportError:
        raise UserError('constrained answers need llguidance: pip install "babyllm[constrain]"') from None
    return LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer)), n_vocab=tokenizer.vocab_size)


class _Vocabulary:
    """A tokenizer in the form that llguidance reads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = set(tokenizer.special.values())
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, tokenizer.bos_id
        self.special_token_ids = sorted(special)
        names = {i: name.encode() for name, i in tokenizer.special.items()}
        self.tokens = [names.get(i) or tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self._tokenizer = ref(tokenizer)  # the compilers must not keep their keys alive

    def __call__(self, text: str) -> list[int]:
        tokenizer = self._tokenizer()
        return tokenizer.encode(text) if tokenizer else []


def _grammar(constraint: Constraint) -> str:
    r"""The grammar of a constraint, which allows every spelling of a text in tokens; `\d` is an ASCII digit."""
    from llguidance import regex_to_lark

    from babyllm.chat.tools.json_rule import json_rule  # here, so that pretraining loads no chat

    text = constraint.text
    if constraint.kind == "grammar":
        return _lark(text, constraint.lead)
    if constraint.kind == "json_schema":
        return _lark(f"start: {json_rule(constraint.value)}", constraint.lead)
    if constraint.kind == "choice":
        text = "|".join(f"(?:{_escaped(choice)})" for choice in constraint.value)
    return _lark(f"start: /{regex_to_lark(_without_anchors(text), 'd')}/", constraint.lead)


def _lark(text: str, lead: str) -> str:
    """A grammar as llguidance takes it, after a lead."""
    answer = {"name": "answer", "lark_grammar": _with_option(text)}
    first = [{"lark_grammar": _with_option(f"start: {json.dumps(lead)} @answer")}] if lead else []
    return json.dumps({"grammars": [*first, answer]})


def _with_option(text: str) -> str:
    """A grammar with llguidance's option without which it would allow only one spelling of what must follow."""
    return text if "%llguidance" in text else f'%llguidance {{"no_forcing": true}}\n{text}'


def _without_anchors(pattern: str) -> str:
    """A regular expression without ^ and $ around it, since the whole answer is matched anyway."""
    pattern = pattern.removeprefix("^")
    if not pattern.endswith("$"):
        return pattern
    before = pattern[:-1]
    is_escaped = (len(before) - len(before.rstrip("\\"))) % 2 == 1
    return pattern if is_escaped else before


def _escaped(text: str) -> str:
    """A text as a regular expression that matches it alone."""
    return re.sub(r"[^\w\u0080-\U0010ffff]", lambda match: f"\\x{{{ord(match[0]):x}}}", text)


def _reason(error: str) -> str:
    """The line of llguidance's error that says what is wrong, in at most 300 characters."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error: ")] or lines
    return re.sub(r"^(?:error: |at \d+\(\d+\): )+", "", told[0])[:300] if told else ""
