"""The rules of `keep`: each looks at the values of an item and returns why the item goes no further."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from babyllm.errors import UserError
from babyllm.synthesis.recipe import Language
from babyllm.synthesis.rules.checks import CHECKS
from babyllm.synthesis.steps.prompt_texts import shown
from babyllm.text.dedup.normal import normal_form

Fault = tuple[str, str]
"""The reason for which an item goes no further, and the details; both are empty if it goes on."""
FINE: Fault = ("", "")
MOST_SIMILAR = 0.9  # Jaccard similarity of pairs of characters from which a rewritten text counts as the old one
_HAN, _LATIN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]"), re.compile(r"[A-Za-z\u00c0-\u024f]")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_BEGINNING = 160  # characters in which a refusal stands
_REFUSAL = re.compile(
    r"\bas an? (?:AI|artificial intelligence|language model)\b"
    r"|\b(?:I['’]m|I am) (?:very |really )?(?:sorry|afraid),? (?:but )?(?:I )?(?:can(?:no|['’])t|am unable|am not able)"
    r"|\bI (?:can(?:no|['’])t|am unable to|am not able to|won['’]t) "
    r"(?:help|assist|comply|provide|answer|fulfil|do that|access|browse)"
    r"|\bI(?:['’]m| am) (?:just )?an? (?:AI|language model|virtual assistant)\b"
    r"|作为(?:一[个名款])?(?:AI|人工智能|语言模型|智能助手|大模型)"
    r"|(?:抱歉|对不起|很遗憾)[，,。！]?.{0,12}(?:我)?(?:无法|不能|没有办法|没办法)"
    r"|我(?:无法|不能|没有能力)(?:提供|回答|帮助|协助|完成|满足|访问|浏览|处理)",
    re.IGNORECASE,
)


def fault_of(values: Mapping[str, Any], keep: Mapping[str, Any], language: Language, where: str) -> Fault:
    """Why an item goes no further by the rules of a step; the rule `new` is not among them.

    Args:
        values: values of the item.
        keep: rules with their arguments.
        language: language of the recipe.
        where: recipe and step, for messages.

    Raises:
        UserError: a rule is unknown, or names a value that does not exist.
    """
    for name, argument in keep.items():
        if name == "new":
            continue
        if name not in RULES:
            raise UserError(f"{where}: keep.{name}: is not one of {', '.join([*RULES, 'new'])}")
        try:
            fault = RULES[name](values, argument, language)
        except KeyError as error:
            raise UserError(f"{where}: keep.{name}: there is no value {error}") from None
        except (TypeError, ValueError, AttributeError, re.error) as error:
            raise UserError(f"{where}: keep.{name}: {argument!r} cannot be used ({error})") from None
        if fault[0]:
            return fault
    return FINE


def is_refusal(text: str) -> bool:
    """Whether a text begins as models do that will not answer."""
    return bool(_REFUSAL.search(text[:_BEGINNING]))


def is_in(text: str, language: Language) -> bool:
    """Whether most of a text's letters are of the script of a language; code does not count, nor do texts without any.

    Chinese text has 30 % of Chinese characters, English text at most 5 % and half of its letters Latin.
    """
    text = _CODE.sub("", text)
    n_han, n_latin = len(_HAN.findall(text)), len(_LATIN.findall(text))
    n = sum(map(str.isalpha, text))
    if not n:
        return True
    return n_han >= 0.3 * n if language == "zh" else n_han <= 0.05 * n and n_latin >= 0.5 * n


def similarity(a: str, b: str) -> float:
    """The Jaccard similarity of the pairs of characters of two texts in their normal forms."""
    first, second = (normal_form(text) for text in (a, b))
    pairs = [{text[i : i + 2] for i in range(max(1, len(text) - 1))} for text in (first, second)]
    return len(pairs[0] & pairs[1]) / len(pairs[0] | pairs[1])


def _length(values: Mapping[str, Any], argument: Mapping[str, Sequence[int]], language: Language) -> Fault:
    for name, (low, high) in argument.items():
        n = len(shown(values[name]))
        if not low <= n <= high:
            return f"{name} too {'short' if n < low else 'long'}", f"{n:,} characters"
    return FINE


def _language(values: Mapping[str, Any], names: Sequence[str], language: Language) -> Fault:
    wrong = [name for name in names if not is_in(shown(values[name]), language)]
    return (f"{wrong[0]} in another language", "") if wrong else FINE


def _refusal(values: Mapping[str, Any], names: Sequence[str], language: Language) -> Fault:
    wrong = [name for name in names if is_refusal(shown(values[name]))]
    return (f"{wrong[0]} is a refusal", "") if wrong else FINE


def _different(values: Mapping[str, Any], argument: Mapping[str, str], language: Language) -> Fault:
    for name, other in argument.items():
        found = similarity(shown(values[name]), shown(values[other]))
        if found >= MOST_SIMILAR:
            return f"{name} is {other} again", f"similarity {found:.2f}"
    return FINE


def _without(values: Mapping[str, Any], argument: Mapping[str, Sequence[str]], language: Language) -> Fault:
    for name, phrases in argument.items():
        text = shown(values[name]).lower()
        if found := next((phrase for phrase in phrases if phrase.lower() in text), None):
            return f"{name} speaks of its prompt", found
    return FINE


def _matches(values: Mapping[str, Any], argument: Mapping[str, str], language: Language) -> Fault:
    wrong = [name for name, pattern in argument.items() if not re.search(pattern, shown(values[name]))]
    return (f"{wrong[0]} of another form", "") if wrong else FINE


def _check(values: Mapping[str, Any], names: Sequence[str], language: Language) -> Fault:
    for name in names:
        if name not in CHECKS:
            raise ValueError(f"there are {', '.join(CHECKS)}")
        if fault := CHECKS[name](values):
            reason, _, detail = fault.partition(": ")
            return reason, detail
    return FINE


RULES: dict[str, Callable[[Mapping[str, Any], Any, Language], Fault]] = {
    "length": _length,
    "language": _language,
    "refusal": _refusal,
    "different": _different,
    "without": _without,
    "matches": _matches,
    "check": _check,
}
