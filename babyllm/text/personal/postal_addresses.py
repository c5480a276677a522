"""Postal addresses in Chinese and English, found from the number of the house.

Chinese: number -> road, village or estate before it -> province, city, district before that -> building, room after
English: number, name in capitals, Street -> apartment, town, state, code
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Place = tuple[int, int]
_HAN = "\u4e00-\u9fff"
_ORDINAL = "[0-9A-Za-z一二三四五六七八九十东西南北中甲乙丙丁]"
_NUMBER = re.compile(
    r"(?:(?:[东西南北中一二三四五六七八九十]|\d{1,2})段)?\s?"
    r"(?:\d{1,5}|[一二三四五六七八九十百]{1,5})(?:[-－之]\d{1,4})?(?:号(?!线|位|牌|码|机|台风|文|令|店|球|选手|种子)|號|弄|巷|组|队|栋|棟|幢|座|单元)"
)
_ROAD = re.compile(
    rf"[{_HAN}]{{1,10}}(?:路|街|大道|巷|弄|胡同|村|屯|社区|小区|新村|花园|花苑|家园|公寓|大厦|广场|苑|府|城|庄|湾|坊|里弄|工业园|科技园)"
    rf"(?:\(?[{_HAN}]{{0,2}}[一二三四五六七八九十ABCD东西南北]区\)?|[东西南北]里|[一二三四五六七八九十]期)?\s?\Z"
)
_ESTATES = ("小区", "花园", "花苑", "家园", "公寓", "大厦", "广场", "苑", "府", "城", "庄", "湾", "坊")
_NO_ROAD = re.compile(
    r"(?:走|马|公|铁|迷|问|道|网|线|电|思|套|末|让|带|半|赶|逛|上|这|哪|多少|[0-9])(?:路|街)\s?\Z|(?:农|乡|全|本)村\s?\Z|(?:这|那)座?城\s?\Z"
)
_STOPS = re.compile(r"(?:在|到|至|于|往|是|址|的|去|寄|送|住|离|从|给|把|向|给|为|找|我家|搬|来|，|就|叫)")
_TAIL = re.compile(
    rf"院?(?:\s?(?:{_ORDINAL}{{1,4}}|附\d{{1,3}})(?:号楼|号院|号|號|栋|棟|幢|座|楼|樓|层|單元|单元|室|房|户|院|门))*"
    r"(?:\s?[A-Z]?\d{3,4}(?!\d|年|元|块|人|米))?"
)
_ROOM = re.compile(
    r"(?<!\d)\d{1,3}(?:号楼|栋|棟|幢|座)\s?(?:\d{1,2}(?:单元|單元)\s?)?\d{1,2}?\d{2,3}(?:室|房|户)|(?<!\d)\d{1,2}单元\s?\d{3,4}(?:室|房|户)?(?!\d)"
)
_BEFORE = 40
_RUN = re.compile(rf"(?:[{_HAN}0-9A-Za-z]{{1,24}}(?<=[省市区县州镇乡道旗])[ ,，])*[{_HAN}0-9A-Za-z]+\s?\Z")

_STREETS = (
    "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq|Way|Place|Pl|Terrace|Parkway|Pkwy"
    "|Highway|Hwy|Crescent|Close|Alley"
)
_ENGLISH = re.compile(
    r"(?<![\w.$€£¥#])(\d{1,5}[A-Za-z]?)(?:-\d{1,5})? (?:[NSEW]\.? |North |South |East |West )?"
    rf"((?:[A-Z][A-Za-z'’-]{{0,20}}\.? |\d{{1,3}}(?:st|nd|rd|th) ){{1,4}}?)(?:{_STREETS})\b\.?"
    r"((?:,? (?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|Room|Rm)\.? ?#?\w{1,6}|,? #\w{1,6})?"
    r"(?:, [A-Z][A-Za-z'-]{1,20}(?: [A-Z][A-Za-z'-]{1,20}){0,2})?(?:,? [A-Z]{2}\b)?(?:,? \d{5}(?:-\d{4})?(?!\d))?"
    r"(?:,? [A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}\b)?)"
)
_BOX = re.compile(r"\bP\.? ?O\.? ?Box \d{1,6}\b", re.IGNORECASE)


def postal_addresses(text: str) -> Iterator[Place]:
    """Where a text has postal addresses that name a house."""
    for found in _NUMBER.finditer(text):
        if (start := _chinese_start(text, found.start(), found[0])) is not None:
            tail = _TAIL.match(text, found.end())
            yield start, tail.end() if tail else found.end()
    yield from (found.span() for found in _ROOM.finditer(text))
    yield from (found.span() for found in _ENGLISH.finditer(text) if _is_english(found))
    yield from (found.span() for found in _BOX.finditer(text))


def _chinese_start(text: str, number: int, said: str) -> int | None:
    """Where the address begins whose house number begins at `number`; None if no road is before it."""
    before = text[max(0, number - _BEFORE) : number]
    road = _ROAD.search(before)
    if road is None or _NO_ROAD.search(before) or len(road[0].strip()) < 3:
        return None
    is_estate = road[0].strip().endswith(_ESTATES)
    if is_estate and not said.endswith(("栋", "棟", "幢", "座", "单元")) and not _TAIL_OF_ESTATE.match(text, number):
        return None
    run = _RUN.search(before)
    start = len(before) - len(run[0]) if run else road.start()
    ends = [found.end() for found in _STOPS.finditer(before, start, max(start, len(before) - 3))]
    return number - len(before) + (ends[-1] if ends else start)


_TAIL_OF_ESTATE = re.compile(r"\s?\d{1,4}号(?:楼|院)?\s?\d{0,2}(?:栋|单元|室|楼|-\d)?")


def _is_english(found: re.Match[str]) -> bool:
    number, name, rest = found[1], found[2].strip(), found[3]
    is_year = number.isdigit() and 1900 <= int(number) < 2100
    return bool(rest.strip(" ,")) or not (is_year or name == "Wall")
