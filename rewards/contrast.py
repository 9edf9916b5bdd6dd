"""Opposites that sentence similarity does not see.

MiniLM gives "A red square appears." and "A red square disappears." a cosine of 0.89, red square against red circle
0.76, both above the paper's threshold. A contrast set lists members that exclude one another; a claim and a reference
that both speak of a set must agree on its members.

The lists are English and hold what words alone can tell. Who does what to whom they do not see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from rewards.parsing import NUMBER_WORDS

# Set -> its members, each a list of words or pairs of words; a star adds the forms of a regular verb.
_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "colour": (
            "red|crimson|scarlet",
            "green",
            "blue|navy",
            "yellow|golden",
            "orange",
            "purple|violet",
            "pink|magenta",
            "brown",
            "black",
            "white",
            "grey|gray|silver",
            "cyan|turquoise|teal",
        ),
        "shape": (
            "square|squares|rectangle|rectangles|box|boxes",
            "circle|circles|disc|discs|disk|disks|ball|balls|sphere|spheres",
            "triangle|triangles",
            "star|stars",
            "diamond|diamonds|rhombus",
            "cross|crosses",
            "hexagon|hexagons",
            "pentagon|pentagons",
        ),
        "side": ("left|leftward|leftwards", "right|rightward|rightwards"),
        "vertical": (
            "up|upward|upwards|rise*|rose|ascend*|climb*",
            "down|downward|downwards|fall*|fell|fallen|descend*|sink*|sank",
        ),
        "height": ("above|top|upper", "below|bottom|lower|beneath"),
        "depth": ("forward|forwards|approach*|closer|nearer", "backward|backwards|recede*|retreat*"),
        "visibility": (
            "appear*|emerge*|show up|shows up|showed up|fade in|fades in|come into|comes into|becomes visible",
            "disappear*|vanish*|fade out|fades out|goes away|went away|no longer",
        ),
        "open": ("open*|unlock*", "close*|shut|shuts|shutting|lock*"),
        "passage": (
            "enter*|arrive*|comes in|came in|walks in|walked in|goes in|went in",
            "exit*|leave*|depart*|comes out|came out|walks out|walked out|goes out|went out",
        ),
        "run": (
            "start*|begin|begins|began|begun|beginning|resume*",
            "stop|stops|stopped|stopping|end*|finish*|halt*|cease*|pause*",
        ),
        "switch": (
            "turn on|turns on|turned on|turning on|switch on|switches on|switched on|lights up",
            "turn off|turns off|turned off|turning off|switch off|switches off|switched off",
        ),
        "hold": (
            "pick*|grab|grabs|grabbed|grabbing|lift*|catch*|caught",
            "drop|drops|dropped|dropping|release*|throw*|threw",
        ),
        "force": ("push*", "pull*"),
        "wear": ("puts on|put on|putting on|dons", "takes off|take off|taking off|took off"),
        "posture": ("stands|standing|stood|stand up|stands up|gets up", "sit|sits|sitting|sat|lies|lying"),
        "size": (
            "large|larger|big|bigger|huge|grow*|grew|grown|expand*",
            "small|smaller|tiny|little|shrink*|shrank|contract*",
        ),
        "speed": (
            "fast|faster|quickly|rapidly|accelerate*|speeds up|sped up",
            "slow|slower|slowly|decelerate*|slows|slowed",
        ),
        "amount": ("increase*|gain*|more", "decrease*|fewer|less"),
        "change": ("add|adds|added|adding|insert*", "remove*"),
        "day": ("day|daytime|daylight", "night|nighttime"),
        "place": ("indoors|indoor|inside", "outdoors|outdoor|outside"),
        "person": ("man|men|boy|boys|male", "woman|women|girl|girls|female|lady"),
        "order": ("first", "last"),
        "fill": ("fill*|full", "empty|empties|emptied|emptying|drain*"),
        "success": ("succeed*|win|wins|won|winning|score*", "fail*|lose*|lost|miss*"),
        "mood": ("happy|happily|smile*|laugh*", "sad|sadly|cry|cries|crying|cried|frown*"),
        "heat": ("hot|heat*|warm*", "cold|cool*|freeze*|froze"),
        "light": ("bright|brighter|brighten*", "dark|darker|darken*|dim|dims"),
        "rotation": ("clockwise", "counterclockwise|anticlockwise|counter clockwise|anti clockwise"),
        "join": ("attach*|connect*|join*", "detach*|disconnect*|separate*"),
    }
)
_WORD = re.compile(r"[a-z]+(?:['\u2019]t)?|\d+(?:\.\d+)?")
_NEGATION = frozenset({"no", "not", "never", "without", "nothing", "nobody", "none", "neither", "cannot"})
# Pairs whose first word is no member of its set.
_NOT_A_MEMBER = frozenset(
    [
        "right now",
        "right away",
        "right after",
        "right before",
        "right at",
        "right when",
        "close to",
        "close up",
        "close by",
        "end of",
        "up to",
        "top of",
        "pick out",
        "start of",
        "first time",
        "last time",
        "right next",
        "join in",
    ]
)
_NO_COUNT_BEFORE_ONE = frozenset(
    {"the", "this", "that", "another", "each", "every", "first", "last", "next", "which", "no"}
)
_NO_COUNT_AFTER_ONE = frozenset({"of", "by", "another", "side", "is", "who", "that"})


@lru_cache(maxsize=1)
def _members() -> Mapping[str, tuple[tuple[str, str], ...]]:
    """Word or pair of words -> the (set, member) it stands for; a member goes by its first word."""
    table: dict[str, tuple[tuple[str, str], ...]] = {}
    for name, members in _SETS.items():
        for member in members:
            entries = member.split("|")
            for entry in entries:
                for form in _verb_forms(entry[:-1]) if entry.endswith("*") else (entry,):
                    table[form] = (*table.get(form, ()), (name, entries[0].rstrip("*")))
    return MappingProxyType(table)


def _verb_forms(verb: str) -> tuple[str, ...]:
    if verb.endswith("e"):
        return verb, f"{verb}s", f"{verb}d", f"{verb[:-1]}ing"
    plural = "es" if verb.endswith(("s", "x", "z", "ch", "sh")) else "s"
    return verb, f"{verb}{plural}", f"{verb}ed", f"{verb}ing"


@lru_cache(maxsize=65536)
def contrast_members(sentence: str) -> Mapping[str, frozenset[str]]:
    """What a sentence holds of each contrast set: set -> members. Sets it does not speak of are left out.

    Two sets are open: `count` (numbers, `3` and `three` alike) and `polarity` (always there: affirmed or denied).
    """
    tokens = _WORD.findall(sentence.lower().replace("-", " "))
    table = _members()
    found: dict[str, set[str]] = {"polarity": {"affirmed"}}
    index = 0
    while index < len(tokens):
        token, following = tokens[index], tokens[index + 1] if index + 1 < len(tokens) else ""
        pair = f"{token} {following}"
        width = 2 if pair in table else 1
        if pair in table or (token in table and pair not in _NOT_A_MEMBER):
            for name, member in table[pair if width == 2 else token]:
                found.setdefault(name, set()).add(member)
        elif token in _NEGATION or token.endswith(("n't", "n\u2019t")):
            found["polarity"] = {"denied"}
        elif (count := _count(token, tokens[index - 1] if index else "", following)) is not None:
            found.setdefault("count", set()).add(count)
        index += width
    return MappingProxyType({name: frozenset(members) for name, members in found.items()})


def _count(token: str, previous: str, following: str) -> str | None:
    if token == "one" and (previous in _NO_COUNT_BEFORE_ONE or following in _NO_COUNT_AFTER_ONE):
        return None
    if token in NUMBER_WORDS:
        return str(NUMBER_WORDS[token])
    return token if token[0].isdigit() else None


@lru_cache(maxsize=65536)
def contrasts(claim: str, reference: str) -> tuple[str, ...]:
    """The contrast sets in which a claim says something that its reference does not; empty: none.

    Only sets that both speak of count, so a claim may leave a detail out or add one of another kind. In a shared set
    the claim's members must all be the reference's: "a red or blue square" is no claim about a red one.
    """
    ours, theirs = contrast_members(claim), contrast_members(reference)
    return tuple(name for name, members in ours.items() if name in theirs and not members <= theirs[name])
