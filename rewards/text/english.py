"""A little English: words of a sentence, and their plain forms, as far as comparing two sentences needs it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

_WORD = re.compile(r"[a-z]+(?:['\u2019]t)?|\d+(?:\.\d+)?|,")

_FUNCTION_WORDS = """
a an the this that these those some any its his her their he she it they him them who which whose there is are was were
be been being am has have had do does did will would can could may might must shall should to of in on at by for from
into onto out off with as and or but then so while when where than very also just still again both each other another
same one's up down away back through across along around about toward towards against during until till it's not no n't
,
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
_IRREGULAR: Mapping[str, str] = MappingProxyType(
    {
        form: plain
        for plain, forms in {
            "catch": "caught",
            "throw": "threw thrown",
            "give": "gave given",
            "take": "took taken",
            "overtake": "overtook overtaken",
            "hold": "held",
            "drive": "drove driven",
            "ride": "rode ridden",
            "bite": "bit bitten",
            "eat": "ate eaten",
            "beat": "beaten",
            "see": "saw seen",
            "lead": "led",
            "feed": "fed",
            "fight": "fought",
            "teach": "taught",
            "bring": "brought",
            "buy": "bought",
            "sell": "sold",
            "send": "sent",
            "tell": "told",
            "write": "wrote written",
            "draw": "drew drawn",
            "win": "won winning",
            "run": "ran running",
            "sit": "sat sitting",
            "stand": "stood",
            "shoot": "shot",
            "strike": "struck",
            "steal": "stole stolen",
            "break": "broke broken",
            "hide": "hid hidden",
            "leave": "left",
            "meet": "met",
            "man": "men",
            "woman": "women",
            "child": "children",
            "person": "people",
            "foot": "feet",
            "mouse": "mice",
        }.items()
        for form in forms.split()
        if form != "left"  # The side, far more often than the verb.
    }
)


def tokens(sentence: str) -> list[str]:
    """Lower-case words, numbers and commas; hyphens divide words."""
    return _WORD.findall(sentence.lower().replace("-", " "))


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """One form for the inflections of a word (`chases`, `chased`, `chasing`); no word of the language as a rule."""
    if word in _IRREGULAR:
        word = _IRREGULAR[word]
    elif word.endswith("ies") and len(word) > 4:
        word = f"{word[:-3]}y"
    elif word.endswith("ing") and len(word) > 5:
        word = _undouble(word[:-3])
    elif word.endswith("ed") and len(word) > 4:
        word = _undouble(word[:-2])
    elif word.endswith(("ches", "shes", "sses", "xes", "zes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _undouble(word: str) -> str:
    return word[:-1] if len(word) > 2 and word[-1] == word[-2] and word[-1] not in "lsz" else word
