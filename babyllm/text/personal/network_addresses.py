"""Addresses in networks: e-mail and IP addresses. Versions with four parts, such as 120.0.6099.1, stay."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

Place = tuple[int, int]
_LOCAL = r"(?<![A-Za-z0-9])[A-Za-z0-9_][A-Za-z0-9._%+-]{0,63}"
_EMAIL = re.compile(
    rf"{_LOCAL}@(?:[A-Za-z0-9-]{{1,63}}\.){{0,5}}[A-Za-z0-9-]{{1,63}}"
    r"(?:\.[A-Za-z]{2,24}|。(?:com|cn|net|org))(?![A-Za-z0-9(@])"
)
# Of well-known providers also with spaces, and with other words for @.
_PROVIDERS = "qq|163|126|139|189|gmail|googlemail|outlook|hotmail|live|yahoo|icloud|foxmail|sina|sohu|aliyun|yeah"
_OF_PROVIDER = re.compile(
    rf"{_LOCAL}(?:\s?[@#]\s?|\s?\(a\)\s?|艾特|\sat\s)(?:vip\.)?(?:{_PROVIDERS})\s?[.。点]\s?(?:com|cn|net)(?![A-Za-z0-9(@])",
    re.IGNORECASE,
)
_AT, _DOT = (
    r"\s?(?:\[at\]|\(at\)|\{at\}|#at#|【at】|\sat\s)\s?",
    r"(?:\s?(?:\[dot\]|\(dot\)|\{dot\}|【dot】)\s?|\.|\sdot\s)",
)
_SPELLED = re.compile(
    rf"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{{0,63}}{_AT}[A-Za-z0-9-]{{1,63}}(?:{_DOT}[A-Za-z0-9-]{{2,63}}){{1,4}}"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"(?<![\w.-])(?:{_OCTET}\.){{3}}{_OCTET}(?![\w-]|\.\w)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_VERSION = re.compile(
    r"(?:版本?|版本号|version|ver\.?|release|build|firmware|固件|驱动|章|节|section|第)\W{0,3}\Z", re.IGNORECASE
)
_HOST = re.compile(
    r"(?:\bip\b|ip\s?地址|地址|address|host|server|服务器|ping|ssh|网关|登录)[^\d\n]{0,12}\Z", re.IGNORECASE
)
_BEFORE = 24  # characters before a number that may say what it is
_SMALL = 20  # numbers below this are those of versions and sections


def email_addresses(text: str) -> Iterator[Place]:
    """Where a text has e-mail addresses, also such as name [at] example [dot] com."""
    if "@" in text:
        yield from (found.span() for found in _EMAIL.finditer(text))
    yield from (found.span() for found in _OF_PROVIDER.finditer(text))
    if "at" in text.lower():
        for found in _SPELLED.finditer(text):
            if re.search(r"[\[({#【]at", found[0], re.IGNORECASE) or re.search(r"\sdot\s", found[0], re.IGNORECASE):
                yield found.span()


def ip_addresses(text: str) -> Iterator[Place]:
    """Where a text has IP addresses, of either version; those of the machine itself or of no machine stay."""
    for found in _IPV4.finditer(text):
        if _is_host(text, found):
            yield found.span()
    if ":" in text:
        for found in _IPV6.finditer(text):
            if _is_ipv6(found[0]):
                yield found.span()


def _is_host(text: str, found: re.Match[str]) -> bool:
    before = text[max(0, found.start() - _BEFORE) : found.start()]
    address = ipaddress.IPv4Address(found[0])
    if _VERSION.search(before) or (before[-1:] in "/vV" and before) or address.is_loopback or address.is_unspecified:
        return False
    is_small = all(int(part) < _SMALL for part in found[0].split("."))
    return bool(_HOST.search(before)) or not is_small


def _is_ipv6(candidate: str) -> bool:
    try:
        address = ipaddress.IPv6Address(candidate)
    except ValueError:
        return False
    groups = candidate.split(":")
    has_digits = any(len(group) == 4 and any(c.isdigit() for c in group) for group in groups)
    return not address.is_loopback and not address.is_unspecified and has_digits
