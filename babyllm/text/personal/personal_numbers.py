"""Numbers of persons: identity numbers, bank cards and accounts, telephones.

A number with a check digit must have the right one. Others need their usual layout, or a word before them that says
what they are, such as 电话 or "card number".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from babyllm.text.personal.check_digits import has_birth_date, is_card, is_chinese_id, is_hong_kong_id, is_taiwan_id

Place = tuple[int, int]
# A number does not go on in digits on either side, nor after the point of a decimal. Letters may touch it on the right.
_ALONE, _END = r"(?<![0-9A-Za-z])(?<!\d\.)", r"(?![0-9A-Za-z]|\.\d)"
_NO_DIGIT = r"(?!\d|\.\d)"
_LINK = (
    r"(?:\s?(?:is\b|no\b\.?|number\b|字?[号號][码碼]?))?[:：是为為\s\"'=#]{0,6}"
    r"(?:(?:is|no\.?|number)\s|[号號][码碼]?[:：是为為\s]{0,3})?"
)

_CHINESE_ID = re.compile(r"(?<!\d)(?=([1-9](?:[-. _/]?\d){16}[-. _/]?[\dXx])(?!\d))")
_NAMED_ID = re.compile(
    r"(?:身[份分][证證]|[证證]件|社保|[护護]照|通行[证證]|[军軍]官[证證]|[驾駕]驶?[证證照]|passport"
    r"|\bID (?:number|no\.?|card)|SSN|social security)"
    rf"{_LINK}((?=[A-Za-z]{{0,2}}\d)[A-Za-z0-9][A-Za-z0-9-]{{5,18}}[A-Za-z0-9]){_END}",
    re.IGNORECASE,
)
_HONG_KONG_ID = re.compile(r"(?<![0-9A-Za-z])([A-Z]{1,2})(\d{6})\(([0-9A])\)")
_TAIWAN_ID = re.compile(r"(?<![0-9A-Za-z])[A-Z][12]\d{8}(?![0-9A-Za-z])")
_SSN = re.compile(r"(?<![\d.-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")

_CARD = re.compile(rf"{_ALONE}\d(?:[- ]?\d){{12,18}}{_END}")
# In fours, with up to three digits more that may be of the card or what follows it; looked for from every group.
_CARD_IN_FOURS = re.compile(r"(?<!\d)(?=(\d{4}([- ])\d{4}\2\d{4}\2\d{4})(\2\d{1,3})?(?!\d))")
_NAMED_CARD = re.compile(
    r"(?:卡[号號]|[银銀]行卡|信用卡|[储儲]蓄卡|[账帐賬帳][号號]|[银銀]行[账帐賬帳][户戶]"
    r"|card (?:number|no\.?)|account (?:number|no\.?)|IBAN)"
    rf"{_LINK}((?:[A-Z]{{2}}\d{{2}}[ ]?)?\d(?:[- ]?\d){{8,24}}){_END}",
    re.IGNORECASE,
)
_NAMED_ACCOUNT = re.compile(
    r"(?:[微薇威]信|\bv信|wechat|\bweixin|(?<![A-Za-z])[vw]x|企鹅号|扣扣|(?<![A-Za-z])QQ)"
    r"(?:[号號][码碼]?|\s?id|[账帐賬帳][号號])?[:：是为為\s]{1,4}([A-Za-z0-9][A-Za-z0-9_-]{4,19})(?![A-Za-z0-9_@-])",
    re.IGNORECASE,
)
_ACCOUNT = re.compile(
    r"(?:扣扣|(?<![A-Za-z])QQ)(?:[号號][码碼]?)?([1-9]\d{4,11})(?![A-Za-z0-9_@-])"
    r"|加我?(?:微信?|薇|v)[:：\s]{0,3}([a-z][a-z0-9_-]{5,19})(?![a-z0-9_@-])|\b(wxid_[a-z0-9]{6,24})",
    re.IGNORECASE,
)

_SEPARATOR = r"[-. _/·]"
_MOBILE = re.compile(
    rf"(?:{_ALONE}(?:(?:\+|00)?86{_SEPARATOR}?|0)?|(?<![A-Za-z])(?:[vtpm]|[vw]x|tel|phone|mob|mobile|call|wechat|weixin))"
    rf"(?:1[3-9]\d({_SEPARATOR}?)\d{{4}}\1\d{{4}}|\(1[3-9]\d\)\s?\d{{4}}[- ]?\d{{4}}|1[3-9]\d[- ]\d{{8}}"
    rf"|1[3-9]\d{{3}}[- ]\d{{6}}|1[3-9]\d\d?([- ])\d{{3,4}}\2\d{{3,4}}|(?<!\d[- .])1([- .])[3-9](?:\3\d){{9}}(?!\3\d))"
    rf"{_NO_DIGIT}",
    re.IGNORECASE,
)
_SPOKEN = str.maketrans("零〇一幺壹二两贰貳三叁參四肆五伍六陆陸七柒八捌九玖", "0011122223334455666778899")
_LAND_LINE = re.compile(
    r"(?<![\d.-])(?:\+86[- ]?|\(\+86\)\s?)?(?:\(0\d{2,3}\)\s?|0\d{2,3}[- ])\d{3,4}[- ]?\d{4}"
    r"(?:\s?(?:-|转|轉|ext\.?)\s?\d{1,5})?(?![\d-])"
)
_LAND_LINE_IN_ONE = re.compile(rf"{_ALONE}(?:0(?:10|2\d)\d{{8}}|0[3-9]\d{{9,10}}|86[- ]\d{{2,3}}[- ]\d{{7,8}}){_END}")
_TAIWAN_MOBILE = re.compile(rf"{_ALONE}09\d{{2}}([- ]?)\d{{3}}\1\d{{3}}{_END}")
_SERVICE = re.compile(r"(?<![\d.-])[48]00[- ]\d{3,4}[- ]\d{3,4}(?![\d-])")
_AMERICAN = re.compile(
    r"(?<![\d.(-])(?:\+?1[-. ])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}([-. ]))[2-9]\d{2}(?(1)\1|[-. ])\d{4}(?![\d-]|\.\d)"
)
_BRITISH = re.compile(r"(?<![\d.-])(?:0\d{4} \d{6}|0\d{4} \d{3} \d{3}|02\d \d{4} \d{4})(?![\d-])")
_ABROAD = re.compile(r"(?<![\w+])(?:\+|00(?=[1-9]\d{1,2}[- ]))([1-9]\d{0,2})((?:[-. ()]{0,2}\d){6,12})(?![\w-])")
_NAMED_PHONE = re.compile(
    r"(?:电话|電話|手机|手機|座机|座機|传真|傳真|联系方式|聯繫方式|致电|拨打"
    r"|call me (?:at|on)|\b(?:tele)?phone(?: number| no\.?)?"
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
    yield from _matches(_CHINESE_ID, text, lambda found: is_chinese_id(_digits(found[1])), 1)
    yield from _matches(_TAIWAN_ID, text, lambda found: is_taiwan_id(found[0]))
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
    for found in _CARD_IN_FOURS.finditer(text):
        for group in (3, 1):  # the longer number first
            end = found.end(group)
            if end > 0 and is_card(_digits(text[found.start() : end])):
                yield found.start(), end
                break


def accounts(text: str) -> Iterator[Place]:
    """Where a text has accounts of chat services after their names."""
    yield from _matches(_NAMED_ACCOUNT, text, lambda found: any(c.isdigit() for c in found[1]), 1)
    for found in _ACCOUNT.finditer(text):
        if any(c.isdigit() for c in found[found.lastindex or 0]):
            yield found.span(found.lastindex or 0)


def phone_numbers(text: str) -> Iterator[Place]:
    """Where a text has telephone numbers, of China and abroad."""
    for pattern in (_MOBILE, _LAND_LINE, _LAND_LINE_IN_ONE, _TAIWAN_MOBILE, _SERVICE, _AMERICAN, _BRITISH):
        yield from _matches(pattern, text)
    if (spoken := text.translate(_SPOKEN)) != text:
        yield from _matches(_MOBILE, spoken)
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
