"""What a conversation has to be like: its text filters by role, and rules about its turns.

conversation -> reason_against -> why it is rejected, or None
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from babyllm.chat.messages import ASSISTANT, SYSTEM, TOOL, USER, Conversation
from babyllm.chat_corpus.chat_records import answers_of, questions_of
from babyllm.config.values import AnyCount, Count
from babyllm.errors import UserError
from babyllm.text.clean.filters import check_names

EVERY = "all"
ROLES = (SYSTEM, USER, ASSISTANT, TOOL)
DEFAULT_FILTERS: Mapping[str, Sequence[str]] = {EVERY: ("unicode", "controls")}


@dataclass(frozen=True)
class ChatFilters:
    """The filters of conversations; lengths are in characters.

    Attributes:
        filters: names of text filters by role, in the order in which they work, such as {user: [unicode], assistant:
            [unicode, repetition]}; the role all stands for every role. An edit changes the fields of the record.
        min_question: fewest characters of each question.
        max_question: most characters of each question; null for no limit.
        min_answer: fewest characters of each answer.
        max_answer: most characters of each answer; null for no limit.
        min_turns: fewest answers of a conversation.
        max_turns: most answers of a conversation; null for no limit.
        same_answer: largest number of times that a conversation may repeat one answer; null for no limit.
        one_sided: whether a conversation may have an answer without a question before it, or a question in its middle
            without an answer; one with other roles than system, user, assistant and tool may in any case.
    """

    filters: dict[str, list[str]] = field(default_factory=lambda: {r: list(n) for r, n in DEFAULT_FILTERS.items()})
    min_question: Count = 1
    max_question: Count | None = None
    min_answer: Count = 1
    max_answer: Count | None = None
    min_turns: Count = 1
    max_turns: Count | None = None
    same_answer: Count | None = 1
    one_sided: bool = False

    def check(self) -> None:
        """Check the names of the filters.

        Raises:
            UserError: a filter is unknown, or works only on documents.
        """
        for names in self.filters.values():
            check_names(names)
            for name in ("outliers", "sites"):
                if name in names:
                    raise UserError(f"--chat.filters: {name} is for documents; leave it out")

    @property
    def steps(self) -> list[tuple[str, str]]:
        """The role and the name of each text filter, in order."""
        return [(role, name) for role, names in self.filters.items() for name in names]


def reason_against(conversation: Conversation, rules: ChatFilters) -> str | None:
    """Why a conversation is rejected by the rules about its turns, or None."""
    questions, answers = questions_of(conversation), answers_of(conversation)
    return (
        _turns(len(answers), rules)
        or _lengths("a question", questions, rules.min_question, rules.max_question)
        or _lengths("an answer", answers, rules.min_answer, rules.max_answer)
        or (None if rules.one_sided else _sides(conversation))
        or _repeats(answers, rules.same_answer)
    )


def _turns(n: int, rules: ChatFilters) -> str | None:
    if n < rules.min_turns:
        return f"fewer than {rules.min_turns:,} answers"
    if rules.max_turns is not None and n > rules.max_turns:
        return f"more than {rules.max_turns:,} answers"
    return None


def _lengths(what: str, texts: Sequence[str], fewest: AnyCount, most: AnyCount | None) -> str | None:
    for text in texts:
        n = len(text.strip())
        if not n:
            return f"{what} is empty"
        if n < fewest:
            return f"{what} of fewer than {fewest:,} characters"
        if most is not None and n > most:
            return f"{what} of more than {most:,} characters"
    return None


def _sides(conversation: Conversation) -> str | None:
    roles = [message.role for message in conversation.messages]
    if not set(roles) <= set(ROLES):
        return None
    is_asked = False
    for role, after in zip(roles, [*roles[1:], ASSISTANT], strict=True):
        if role == USER and after not in (ASSISTANT, TOOL):
            return "a question without an answer"
        if role == ASSISTANT and not is_asked:
            return "an answer without a question"
        is_asked = role in (USER, TOOL) or (is_asked and role == SYSTEM)
    return None


def _repeats(answers: Sequence[str], most: int | None) -> str | None:
    if most is None or len(answers) < 2:
        return None
    times = max(Counter(answer.strip() for answer in answers).values())
    return f"an answer that occurs more than {most} time{'s' * (most > 1)} in it" if times > most else None
