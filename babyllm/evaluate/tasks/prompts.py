"""What a model reads for an item: examples and question as ids, and the ids of each option that is scored.

    Item + examples -> context and continuations, as texts -> ids: shared with other items | context | each option

A form is a way of asking. `letter` lists the options and scores their letters, `text` scores the options themselves,
and `bare` scores them without the question, for pointwise mutual information.

Plain prompts have the ids of lm-evaluation-harness: context and continuation are encoded together, blanks at the end of
the context belong to the continuation, and an empty context is the token that begins a text (`Tokenizer.begin_id`). A
token across the border, which would make the two inseparable, belongs to the continuation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import ASSISTANT, USER, Message
from babyllm.errors import UserError
from babyllm.evaluate.tasks.items import Item, TaskItems
from babyllm.evaluate.tasks.task import Task
from babyllm.tokenizer import Tokenizer

Ids = tuple[int, ...]
T = TypeVar("T")
MIN_SHARED = 16
"""Number of tokens from which it pays to keep a beginning that several prompts share."""


class Question(NamedTuple):
    """One reading of an item by a model.

    Attributes:
        key: name of the reading, unique within a task: the item, the form and the rotation of the options.
        contexts: ids before each option, at least one each; all equal unless an option belongs to the question. A
            question whose answer is generated has one.
        options: ids of each option that are scored, at least one each; empty for a generated answer.
        n_shared: number of ids at the beginning of all contexts that other items share.
        n_examples: number of examples in the contexts.
        n_cut: number of ids cut off at the beginning of the contexts, because they did not fit.
    """

    key: str
    contexts: tuple[Ids, ...]
    options: tuple[Ids, ...]
    n_shared: int = 0
    n_examples: int = 0
    n_cut: int = 0


def questions_hash(questions: Sequence[Question]) -> str:
    """The hexadecimal sha256 of all that a model reads for questions."""
    digest = hashlib.sha256()
    for question in questions:
        contexts = dict.fromkeys(question.contexts)
        digest.update(f"{question.key} {question.n_shared} {list(map(len, question.options))}".encode())
        for ids in (*contexts, *question.options):
            digest.update(np.array([len(ids), *ids], np.int64).tobytes())
    return digest.hexdigest()


class _Form(NamedTuple):
    """A way of asking.

    Attributes:
        name: name in keys.
        ask: text of a prompt for an item, which ends where the answer begins.
        right: text of the right answer, which examples show.
    """

    name: str
    ask: Callable[[Item], str]
    right: Callable[[Item], str]


@dataclass(frozen=True)
class Prompter:
    """Writes the prompts of a task for one model.

    Attributes:
        found: items and examples of the task.
        tokenizer: tokenizer of the model.
        context: largest number of tokens that the model reads.
        template: chat template that makes an exchange of each example and question; None writes plain text.
    """

    found: TaskItems
    tokenizer: Tokenizer
    context: int
    template: ChatTemplate | None = None

    def questions(self, item: Item, *, permute: bool = False) -> Iterator[Question]:
        """All readings of an item.

        Args:
            item: item of the task.
            permute: whether to list the options with their letters in every cyclic order.

        Raises:
            UserError: an option has more tokens than the model reads.
        """
        task = self.found.task
        text = _Form("text", lambda each: _plain(task, each), lambda each: each.options[each.answer])
        if task.kind == "generated":
            yield self._question(item, text._replace(name="generated", right=lambda each: each.reference))
            return
        if task.has_letters:
            letters = task.labels[: len(item.options)]
            for shift in range(len(item.options) if permute else 1):
                yield self._question(item, _letter_form(task, item, shift), list(letters))
        if task.target:
            asked = [text.ask(item) + task.delimiter + option for option in item.options]
            yield self._question(item, text, [item.reference] * len(asked), asked)
            return
        yield self._question(item, text, item.options)
        if task.kind == "options":
            begin, encode = (self.tokenizer.begin_id,), self.tokenizer.encode
            options = tuple(tuple(encode(task.delimiter + option)) for option in item.options)
            yield Question(f"{item.id}|bare", (begin,) * len(options), options)

    def _question(
        self, item: Item, form: _Form, continuations: Sequence[str] = (), asked: Sequence[str] = ()
    ) -> Question:
        """A reading with as many examples as fit.

        Args:
            item: item of the task.
            form: way of asking.
            continuations: texts that are scored; empty for a generated answer.
            asked: prompt before each continuation; empty if it is the form's.
        """
        examples = self.found.examples_for(item)
        room = 0 if continuations else min(self.found.task.max_new_tokens, self.context // 2)
        asked = asked or [form.ask(item)] * max(1, len(continuations))
        for n in range(len(examples), -1, -1):
            contexts, options = self._encoded(item, form, examples[:n], asked, continuations)
            widths = [len(option) - 1 for option in options] or [room]
            excess = max(len(context) + width for context, width in zip(contexts, widths, strict=True)) - self.context
            if excess <= 0:
                break
        cut = max(0, excess)
        if any(len(context) <= cut for context in contexts):
            raise UserError(f"{item.id}: an answer has more tokens than the {self.context} that the model reads")
        contexts = tuple(context[cut:] for context in contexts)
        n_shared = 0 if cut else self._n_shared(item, form, examples[:n], contexts)
        return Question(f"{item.id}|{form.name}", contexts, options, n_shared, n, cut)

    def _encoded(
        self, item: Item, form: _Form, examples: Sequence[Item], asked: Sequence[str], continuations: Sequence[str]
    ) -> tuple[tuple[Ids, ...], tuple[Ids, ...]]:
        """The ids of the contexts and of the continuations."""
        contexts = [self._context_ids(item, form, examples, text) for text in dict.fromkeys(asked)]
        by_text = dict(zip(dict.fromkeys(asked), contexts, strict=True))
        if not continuations:
            return (by_text[asked[0]] or (self.tokenizer.begin_id,),), ()
        if self.template is not None:
            options = tuple(tuple(self.tokenizer.encode(text)) for text in continuations)
            return tuple(by_text[text] for text in asked), options
        before, delimiter = self._before(item, form, examples), self.found.task.delimiter
        pairs = [
            self._pair(by_text[text], before + text, delimiter + continuation)
            for text, continuation in zip(asked, continuations, strict=True)
        ]
        begin = (self.tokenizer.begin_id,)
        return tuple(context or begin for context, _ in pairs), tuple(option for _, option in pairs)

    def _context_ids(self, item: Item, form: _Form, examples: Sequence[Item], asked: str) -> Ids:
        if self.template is None:
            return self._begun(self._before(item, form, examples) + asked)
        exchanges = [(form.ask(each), form.right(each)) for each in examples]
        messages = [
            Message(role, text) for pair in exchanges for role, text in zip((USER, ASSISTANT), pair, strict=True)
        ]
        messages.append(Message(USER, asked))
        messages[0] = Message(USER, item.description + messages[0].content)
        return tuple(self.template.prompt(messages))

    def _begun(self, text: str) -> Ids:
        """The ids of a text after what other programs put before it; none of an empty text."""
        begin = (self.tokenizer.begin_id,) if self.tokenizer.adds_bos and text else ()
        return (*begin, *self.tokenizer.encode(text))

    def _before(self, item: Item, form: _Form, examples: Sequence[Item]) -> str:
        """The text before the item's own prompt."""
        task = self.found.task
        shown = (form.ask(each) + task.delimiter + form.right(each) + task.separator for each in examples)
        return item.description + "".join(shown)

    def _pair(self, context: Ids, text: str, continuation: str) -> tuple[Ids, Ids]:
        """The ids of a context and of its continuation, which are at least one."""
        kept = text.rstrip()
        if kept != text:
            context, text, continuation = self._begun(kept), kept, text[len(kept) :] + continuation
        whole = self._begun(text + continuation) if text else tuple(self.tokenizer.encode(continuation))
        border = min(n_equal(context, whole), len(whole) - 1)
        return whole[:border], whole[border:]

    def _n_shared(self, item: Item, form: _Form, examples: Sequence[Item], contexts: Sequence[Ids]) -> int:
        """The number of ids of all contexts that an item with another question would have, too."""
        if self.template is None:
            same = self._begun(self._before(item, form, examples))
        else:
            same = self._context_ids(item, form, examples, "")
        n = min(min(n_equal(same, context), len(context) - 1) for context in contexts)
        return n if n >= MIN_SHARED else 0


def _plain(task: Task, item: Item) -> str:
    return "\n".join(filter(None, (item.question, task.cue)))


def _letter_form(task: Task, asked: Item, shift: int) -> _Form:
    """The form that lists options with letters; those of the item itself begin with its option number `shift`."""

    def ask(item: Item) -> str:
        options = rotated(item.options, shift) if item is asked else item.options
        lines = (f"{label}. {option}" for label, option in zip(task.labels, options, strict=False))
        return "\n".join(filter(None, (item.question, *lines, task.cue)))

    return _Form(f"letter|{shift}", ask, lambda item: task.labels[item.answer])


def rotated(options: Sequence[T], shift: int) -> list[T]:
    """The options from number `shift` on, and then those before it."""
    return [*options[shift:], *options[:shift]]


def n_equal(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of equal ids at the beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
