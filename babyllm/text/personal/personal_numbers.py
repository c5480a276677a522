"""Numbers of persons: identity numbers, bank cards and accounts, telephones.

A number with a check digit must have the right one. Others need their usual layout, or a word before them that says
what they are, such as 电话 or "card number".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from babyllm.text.personal.check_digits import has_birth_date, is_card, is_chinese_id, is_hong_kong_id

Place = tuple[int, int]
_ALONE, _END = r"(?<![0-9A-Za-z.])", r"(?![0-9A-Za-z]|\.\d)"
_LINK = r"[:：是为\s\"'=#]{0,4}(?:is\s|no\.?\s|number\s|号码?\s?[:：是为]?\s?)?"

_CHINESE_ID = re.compile(rf"{_ALONE}[1-9]\d{{5}}([- ]?)\d{{4}}(?:\1|)\d{{4}}\1\d{{3}}[\dXx]{_END}")
_NAMED_ID = re.compile(
    r"(?:身份证|身分证|身份證|证件|社保|护照|passport|\bID (?:number|no\.?|card)|SSN|social security)"
    rf"{_LINK}((?=[A-Za-z]{{0,2}}\d)[A-Za-z0-9][A-Za-z0-9-]{{5,18}}[A-Za-z0-9]){_END}",
    re.IGNORECASE,
)
_HONG_KONG_ID = re.compile(r"(?<![0-9A-Za-z])([A-Z]{1,2})(\d{6})\(([0-9A])\)")
_SSN = re.compile(r"(?<![\d.-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")

_CARD = re.compile(rf"{_ALONE}\d(?:[- ]?\d){{12,18}}{_END}")
_NAMED_CARD = re.compile(
    r"(?:卡号|银行卡|信用卡|储蓄卡|账号|帐号|賬號|银行账户|card (?:number|no\.?)|account (?:number|no\.?)|IBAN)"
    rf"{_LINK}((?:[A-Z]{{2}}\d{{2}}[ ]?)?\d(?:[- ]?\d){{8,24}}){_END}",
    re.IGNORECASE,
)
_NAMED_ACCOUNT = re.compile(
    r"(?:微信号?|wechat(?: id)?|\bweixin|企鹅号|扣扣|(?<![A-Za-z])QQ号?)[:：是为\s]{1,4}"
    r"([A-Za-z0-9][A-Za-z0-9_-]{4,19})(?![A-Za-z0-9_@-])",
    re.IGNORECASE,
)

_MOBILE = re.compile(rf"{_ALONE}(?:\+|00)?(?:86[- ]?)?1[3-9]\d([- ]?)\d{{4}}\1\d{{4}}{_END}")
_MOBILE_3 = re.compile(rf"{_ALONE}1[3-9]\d\d?([- ])\d{{3,4}}\1\d{{3,4}}{_END}")
_MOBILE_IN_WORDS = re.compile(
    r"(?<![零〇一二三四五六七八九幺两])[一幺][三四五六七八九][零〇一二三四五六七八九幺两]{9}(?![零〇一二三四五六七八九幺两])"
)
_LAND_LINE = re.compile(
    r"(?<![\d.-])(?:\+86[- ]?|\(\+86\)\s?)?(?:\(0\d{2,3}\)\s?|0\d{2,3}[- ])\d{3,4}[- ]?\d{4}"
    r"(?:\s?(?:-|转|ext\.?)\s?\d{1,5})?(?![\d-])"
)
_SERVICE = re.compile(r"(?<![\d.-])[48]00[- ]\d{3,4}[- ]\d{3,4}(?![\d-])")
_AMERICAN = re.compile(
    r"(?<![\d.(-])(?:\+?1[-. ])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}([-. ]))[2-9]\d{2}(?(1)\1|[-. ])\d{4}(?![\d-]|\.\d)"
)
_BRITISH = re.compile(r"(?<![\d.-])(?:0\d{4} \d{6}|0\d{4} \d{3} \d{3}|02\d \d{4} \d{4})(?![\d-])")
_ABROAD = re.compile(r"(?<![\w+])(?:\+|00(?=[1-9]\d{1,2}[- ]))([1-9]\d{0,2})((?:[-. ()]{0,2}\d){6,12})(?![\w-])")
_NAMED_PHONE = re.compile(
    r"(?:电话|電話|手机号?|手機|座机|传真|联系方式|致电|拨打|call me (?:at|on)|\b(?:tele)?phone(?: number| no\.?)?"
    rf"|\btel\.?|\bfax|\bmobile(?: number)?){_LINK}(\(?\d{{3,4}}\)?[- ]?\d{{3,4}}(?:[- ]?\d{{2,4}}){{0,2}}){_END}",
    re.IGNORECASE,
)
_DATE = re.compile(r"(?:19|20)\d{2}[-./ ]?(?:0[1-9]|1[0-2])[-./ ]?(?:0[1-9]|[12]\d|3[01])")
# Calling codes of one and two digits; all others that are in use have three.
_SHORT_CODES = frozenset(["1", "7", "20", "27"]) | {
    *map(str, (*range(30, 35), 36, 39, 40, 41, *range(43, 50), *range(51, 59), *range(60, 67), 81, 82, 84, 86)),
    *map(str, (*range(90, 96), 98)),
}


def identity_numbers(text: str) -> Iterator[Place]:
    """Where a text has identity numbers: Chinese ones, those of Hong Kong and the United States, named ones."""
    yield from _matches(_CHINESE_ID, text, lambda found: is_chinese_id(_digits(found[0])))
    yield from _matches(_HONG_KONG_ID, text, lambda found: is_hong_kong_id(found[1], found[2], found[3]))
    yield from _matches(_SSN, text)
    for found in _NAMED_ID.finditer(text):
        number = _digits(found[1])
        if sum(c.isdigit() for c in number) >= 6 and (len(number) != 18 or has_birth_date(number)):
            yield found.span(1)


def card_numbers(text: str) -> Iterator[Place]:
    """Where a text has numbers of bank cards, and of accounts that are named so."""
    yield from _matches(_CARD, text, lambda found: is_card(_digits(found[0])))
    yield from _matches(_NAMED_CARD, text, group=1)


def accounts(text: str) -> Iterator[Place]:
    """Where a text has accounts of chat services after their names."""
    return _matches(_NAMED_ACCOUNT, text, lambda found: any(c.isdigit() for c in found[1]), 1)


def phone_numbers(text: str) -> Iterator[Place]:
    """Where a text has telephone numbers, of China and abroad."""
    for pattern in (_MOBILE, _MOBILE_3, _MOBILE_IN_WORDS, _LAND_LINE, _SERVICE, _AMERICAN, _BRITISH):
        yield from _matches(pattern, text)
    yield from _matches(_ABROAD, text, _is_abroad)
    yield from _matches(_NAMED_PHONE, text, _is_named, 1)


def _is_abroad(found: re.Match[str]) -> bool:
    code, digits = found[1], _digits(found[0]).lstrip("0")
    known = any(digits.startswith(short) for short in _SHORT_CODES) or digits[0] in "2345689"
    return known and 8 <= len(digits) <= 15 and bool(code)


def _is_named(found: re.Match[str]) -> bool:
    number = found[1]
    return 7 <= len(_digits(number)) <= 12 and not _DATE.fullmatch(number.strip())


def _matches(
    pattern: re.Pattern[str], text: str, is_right: Callable[[re.Match[str]], bool] | None = None, group: int = 0
) -> Iterator[Place]:
    return (found.span(group) for found in pattern.finditer(text) if is_right is None or is_right(found))


def _digits(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", "", text)
