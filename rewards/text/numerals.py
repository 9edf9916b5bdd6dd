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
    | dict.fromkeys("十", 1e1)
    | dict.fromkeys("百백", 1e2)
    | dict.fromkeys("千천", 1e3)
    | dict.fromkeys("万萬만", 1e4)
    | dict.fromkeys("亿億억", 1e8)
    | {"兆": 1e12}
)
_TENS: Mapping[str, int] = MappingProxyType(
    {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
)
_SIGN = r"[-+\u2212]?"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,18})(?:\.\d{1,18})?|\.\d{1,18}"
_POWER = r"e[-+]?\d{1,3}(?!\w)|\s?[x\u00d7*]\s?10(?:\^|\*\*)\{?[-+\u2212]?\d{1,3}\}?"
NUMBER = re.compile(
    # A colon may stand before it ("Answer:42"), but not a clock's.
    rf"(?<![\w.,/^\u221a])(?<!\d:)(?P<sign>{_SIGN})(?P<digits>{_DIGITS})(?P<power>{_POWER})?"
    rf"(?:\s?/\s?(?P<divisor>\d{{1,9}})(?![\d/.]))?(?:\s?(?P<scale>(?:k|thousand|million|mio|billion|bn|trillion)\b"
    r"|[十百千万萬亿億兆백천만억](?![分点])))?"
    r"(?!\d|[.,:]\d|/\d|\^)",
    re.IGNORECASE,
)
_AMOUNT = r"\d{1,3}(?:,\d{3})+(?:\.\d{1,12})?|\d{1,15}(?:\.\d{1,12})?"
_LATEX_THOUSANDS = re.compile(r"(?<=\d)\\[,!](?=\d{3}(?!\d))")
_LATEX_SPACE = re.compile(r"\\(?:[,;:! ]|quad|qquad|left|right|displaystyle|approx|sim)(?![a-zA-Z])|\\[()\[\]]")
_LATEX_DEGREE = re.compile(r"\^\s?\{?\s?\\circ\s?\}?|\\degree\b")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|boxed|mbox|operatorname)\s?\{([^{}\\]{0,256})\}")
_LATEX_FRACTION = re.compile(rf"\\[dt]?frac\s?(?:\{{\s?({_AMOUNT})\s?\}}\s?\{{\s?({_AMOUNT})\s?\}}|(\d)\s?(\d))")
_LATEX_ROOT = re.compile(rf"\\sqrt\s?(?:\[(\d)\])?\s?(?:\{{\s?({_AMOUNT})\s?\}}|(\d))")
_SIGN_ROOT = re.compile(rf"\u221a\s?(?:\(\s?({_AMOUNT})\s?\)|({_AMOUNT}))")
_MIXED = re.compile(r"(?<![\w.,:/^])(\d{1,6})\s+(\d{1,3})/(\d{1,3})(?![\d/.])")
_UNIT_POWER = re.compile(r"(?<=[a-zA-Z\u00b5\u03bc])\^\{?[-\u2212]?\d\}?(?![\d^])")
_POWER_OF = re.compile(
    rf"(?<![\w.,^\u00d7*])(?<![x\u00d7*]\s)({_AMOUNT})\s?(?:\^|\*\*)\s?(?:\{{\s?([-\u2212]?\d{{1,3}})\s?\}}|([-\u2212]?\d{{1,3}}))(?![\d^.])"
)
_MAX_NESTING = 4
_THIN_SPACE = re.compile(r"(?<=\d)[\u00a0\u202f\u2009'](?=\d{3}(?!\d))")


def is_number(text: str) -> bool:
    """Whether a text is one number and nothing besides, but for a percent sign."""
    plain = _evaluated(normalise(_THIN_SPACE.sub("", plain_latex(text))))
    return re.fullmatch(rf"\s*{NUMBER.pattern}\s*%?\s*", plain, re.IGNORECASE) is not None


def numbers(text: str) -> list[float]:
    """Finite numbers in a text; number words count where it has no digits.

    Read are thousands (`1,250`), decimals, exponents (`1e3`, `1.2 x 10^3`), fractions (`1/2`, `1 1/2`, `\\frac{1}{2}`),
    powers (`2^10`, `10\u00b3`), roots (`\\sqrt{9}`), scales (`2.5 million`, `3k`) and words up to the billions. Of an
    equation only what follows its last `=` counts. Units are ignored, the percent sign too: `50 %` is 50. Clock times,
    dates and digits inside words are no numbers, nor are `nan` and `inf`, nor is a formula that is not understood.
    """
    # NFKC would make a plain space of the thin one between thousands.
    plain = _evaluated(normalise(_THIN_SPACE.sub("", plain_latex(text))))
    if "\\" in plain:
        # A formula that is not understood holds no number that could be told.
        return []
    plain = re.split(r"[=\u2248\u2245]", plain)[-1] or plain
    values = [_value(match) for match in NUMBER.finditer(plain)]
    if not values:
        values = _from_words(words(plain.replace("-", " ")))
    return [value for value in values if math.isfinite(value)]


def plain_latex(text: str) -> str:
    """LaTeX's spellings of numbers in plain ones; commands that are not known stay."""
    if not any(sign in text for sign in "\\${"):
        return text
    text = (
        _LATEX_SPACE.sub(" ", _LATEX_THOUSANDS.sub("", text))
        .replace("\\$", "")
        .replace("$", "")
        .replace("\\%", "%")
        .replace("{,}", ",")
    )
    text = _LATEX_DEGREE.sub(" ", text)
    for _ in range(_MAX_NESTING):
        before = text
        text = _LATEX_TEXT.sub(r" \1 ", text)
        text = _LATEX_FRACTION.sub(_fraction, text)
        text = _LATEX_ROOT.sub(lambda match: _root(match[2] or match[3], match[1] or "2", whole=match[0]), text)
        if text == before:
            break
    return text.replace("\\times", "\u00d7").replace("\\cdot", "\u00d7")


def _fraction(match: re.Match[str]) -> str:
    # Of "1\\frac{1}{2}" the whole number stays apart.
    space = " " if match.string[max(0, match.start() - 1) : match.start()].isdigit() else ""
    return f"{space}{match[1] or match[3]}/{match[2] or match[4]}"


def _evaluated(text: str) -> str:
    """Powers, roots and mixed fractions as the numbers that they are; of a unit's power ("5 m^2") nothing is left."""
    text = _SIGN_ROOT.sub(lambda match: _root(match[1] or match[2], "2", whole=match[0]), text)
    text = _MIXED.sub(lambda match: _mixed(match[1], match[2], match[3]), text)
    text = _UNIT_POWER.sub("", text)
    return _POWER_OF.sub(_power, text)


def _power(match: re.Match[str]) -> str:
    exponent = int((match[2] or match[3]).replace("\u2212", "-"))
    try:
        value = float(match[1].replace(",", "")) ** exponent
    except (OverflowError, ZeroDivisionError):
        value = math.inf
    return _decimal(value, whole=match[0])


def _root(radicand: str, degree: str, *, whole: str) -> str:
    order = int(degree)
    return _decimal(float(radicand.replace(",", "")) ** (1 / order), whole=whole) if order else whole


def _mixed(whole: str, numerator: str, denominator: str) -> str:
    if not int(denominator) or int(numerator) >= int(denominator):
        return f"{whole} {numerator}/{denominator}"
    return repr(int(whole) + int(numerator) / int(denominator))


def _decimal(value: float, *, whole: str) -> str:
    """The value in digits; what has too many of them is unreadable rather than something else."""
    if not math.isfinite(value) or not (value == 0 or 1e-15 < abs(value) < 1e15):
        return "\\"
    digits = repr(round(value, 12)) if abs(value) < 1e6 else repr(value)
    return digits if "e" not in digits else f"{value:.15f}"


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
