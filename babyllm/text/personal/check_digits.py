"""Check digits of numbers that name a person: any other number of its length mostly has a wrong one."""

from __future__ import annotations

from datetime import date

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS = "10X98765432"
_TAIWAN_LETTERS = "ABCDEFGHJKLMNPQRSTUVXYWZIO"  # in the order of their numbers, from 10 on


def is_chinese_id(number: str) -> bool:
    """Whether 18 characters are a number of a Chinese identity card: a real date of birth, and the check character.

    The check character is that of ISO 7064, MOD 11-2 (GB 11643-1999).
    """
    if len(number) != 18 or not number[:17].isdigit():
        return False
    return has_birth_date(number) and _CHECKS[sum(map(_product, number[:17], _WEIGHTS)) % 11] == number[17].upper()


def has_birth_date(number: str) -> bool:
    """Whether an identity number of 18 characters has a date since 1900 in its place."""
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    return 1900 <= born.year < 2100


def is_hong_kong_id(letters: str, digits: str, check: str) -> bool:
    """Whether a Hong Kong identity number, such as A123456(3), has the right check character."""
    padded = letters.rjust(2)
    values = [36 if c == " " else ord(c) - ord("A") + 10 for c in padded] + [int(c) for c in digits]
    rest = -sum(value * weight for value, weight in zip(values, range(9, 1, -1), strict=True)) % 11
    return check == ("A" if rest == 10 else str(rest))


def is_taiwan_id(number: str) -> bool:
    """Whether a letter and nine digits, such as A123456789, are a number of Taiwan's identity card."""
    first = _TAIWAN_LETTERS.index(number[0]) + 10
    weighted = (int(digit) * weight for digit, weight in zip(number[1:], (8, 7, 6, 5, 4, 3, 2, 1, 1), strict=True))
    return (first // 10 + first % 10 * 9 + sum(weighted)) % 10 == 0


def is_card(number: str) -> bool:
    """Whether digits are the number of a bank card: the length and beginning of a brand, and Luhn's check digit."""
    return _has_brand(number) and has_luhn(number)


def has_luhn(number: str) -> bool:
    """Whether digits fulfil Luhn's formula (ISO/IEC 7812-1)."""
    digits = [int(c) for c in reversed(number)]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + doubled) % 10 == 0


def _has_brand(number: str) -> bool:
    n, two, four = len(number), int(number[:2]), int(number[:4])
    return (
        (number[0] == "4" and n in (13, 16, 19))
        or (n == 16 and (51 <= two <= 55 or 2221 <= four <= 2720 or 3528 <= four <= 3589))
        or (n == 15 and two in (34, 37))
        or (n == 14 and two in (30, 36, 38, 39))
        or (16 <= n <= 19 and number[0] == "6")  # UnionPay, Discover, Maestro
    )


def _product(digit: str, weight: int) -> int:
    return int(digit) * weight
