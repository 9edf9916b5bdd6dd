"""Numbers in a text: digits in the usual spellings, or words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

from rewards.text.choices import normalise
from rewards.text.parsing import NUMBER_WORDS, words

_SCALES: Mapping[str, float] = MappingProxyType(
    {"k": 1e3, "thousand": 1e3, "million": 1e6, "mio": 1e6, "billion": 1e9, "bn": 1e9, "trillion": 1e12}
)
_TENS: Mapping[str, int] = MappingProxyType(
    {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
)
_SIGN = r"[-+\u2212]?"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,18})(?:\.\d{1,18})?|\.\d{1,18}"
_POWER = r"e[-+]?\d{1,3}(?!\w)|\s?[x\u00d7*]\s?10(?:\^|\*\*)\{?[-+\u2212]?\d{1,3}\}?"
NUMBER = re.compile(
    rf"(?<![\w.,:/])(?P<sign>{_SIGN})(?P<digits>{_DIGITS})(?P<power>{_POWER})?"
    rf"(?:\s?/\s?(?P<divisor>\d{{1,9}})(?![\d/.]))?(?:\s?(?P<scale>k|thousand|million|mio|billion|bn|trillion)\b)?"
    r"(?!\d|[.,:]\d|/\d)",
    re.IGNORECASE,
)
_THIN_SPACE = re.compile(r"(?<=\d)[\u00a0\u202f\u2009'](?=\d{3}(?!\d))")


def numbers(text: str) -> list[float]:
    """Finite numbers in a text; number words count where it has no digits.

    Read are thousands (`1,250`), decimals, exponents (`1e3`, `1.2 x 10^3`), fractions (`1/2`), scales (`2.5 million`,
    `3k`) and words up to the billions. Of an equation only what follows its last `=` counts. Units are ignored, the
    percent sign too: `50 %` is 50. Clock times, dates and digits inside words are no numbers, nor are `nan` and `inf`.
    """
    # NFKC would make a plain space of the thin one between thousands.
    plain = normalise(_THIN_SPACE.sub("", text)).replace("\\%", "%").replace("{,}", ",")
    plain = re.split(r"[=\u2248\u2245]", plain)[-1] or plain
    values = [_value(match) for match in NUMBER.finditer(plain)]
    if not values:
        values = _from_words(words(plain.replace("-", " ")))
    return [value for value in values if math.isfinite(value)]


def _value(match: re.Match[str]) -> float:
    value = float(match["digits"].replace(",", ""))
    if match["power"]:
        exponent = re.split(r"e|\^|\*\*", match["power"], flags=re.IGNORECASE)[-1].strip("{} ").replace("\u2212", "-")
        value *= 10.0 ** int(exponent) if abs(int(exponent)) <= 300 else math.inf
    if match["divisor"]:
        value = value / int(match["divisor"]) if int(match["divisor"]) else math.nan
    if match["scale"]:
        value *= _SCALES[match["scale"].lower()]
    return -value if match["sign"] in ("-", "\u2212") else value


def _from_words(found: list[str]) -> list[float]:
    """Runs of number words as numbers: "two hundred and twenty five" is 225, "minus one" is -1."""
    values: list[float] = []
    total = current = 0.0
    inside = negative = False
    for word in [*found, "."]:
        if word in NUMBER_WORDS or word in _TENS:
            current += NUMBER_WORDS.get(word, _TENS.get(word, 0))
            inside = True
        elif inside and word == "hundred":
            current *= 100
        elif inside and word in _SCALES and len(word) > 2:
            total, current = total + current * _SCALES[word], 0.0
        elif not (inside and word == "and"):
            if inside:
                values.append(-(total + current) if negative else total + current)
            total, current, inside, negative = 0.0, 0.0, False, word in ("minus", "negative")
    return values
