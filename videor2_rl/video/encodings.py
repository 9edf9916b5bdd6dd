"""The text of a file that does not say its encoding: a wrong guess would be drawn, so a doubtful one is none."""

from __future__ import annotations

import codecs
import re
from itertools import pairwise
from types import MappingProxyType

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, whose mark it begins with.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LATIN = ("cp1252", "cp1250")
_OTHERS = ("gb18030", "big5", "cp932", "euc_jp", "cp949", "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256")
_ENOUGH_BYTES = 96
"""From so many bytes beyond ASCII on charset-normalizer is to be trusted; it took a line of GB18030 for Korean."""
_LEAST_LETTERS = 4
"""Of two bytes each; twice as many of one."""
_LATIN_SHARE = 0.25
"""Of letters beyond ASCII in Latin text; Vietnamese and Greek have more."""
_COMMON_SHARE = 0.6
_COMMON = MappingProxyType(
    {
        "gb18030": "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后"
        "作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因"
        "只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应"
        "战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿"
        "原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太"
        "量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界"
        "达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今"
        "切院让识候带导争运吗吧啊呢您请谢快爱早晚红蓝车吃喝",
        "big5": "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後"
        "作裡用道行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因"
        "只從想實日軍者意無力它與長把機十民第公此已工使情明性知全三又關點正業外將兩高間由問很最重並物手應"
        "戰向頭文體政美相見被利什二等產或新己制身果加西斯月話合回特代內信表化老給世位次度門任常先海通教兒"
        "原東聲提立及比員解水名真論處走義各入幾口認條平系氣題活更別打女變四神總何電數安少報才結反受目太量"
        "再感建務做接必場件計管期市直資命山金指許統區保至隊形社便空決治展馬科司五基眼書非則聽白卻界達光放"
        "強即像難且權思王象完設式色路記南品住告類求據程北邊死張該交規萬取拉格望覺術領共確傳師觀清今切院讓"
        "識候帶導爭運嗎吧啊呢您請謝快愛早晚紅藍車吃喝",
        "cp949": "이다는을가에의고하지은로를한도서나기어사아자인리그해시있니요수거만일라정게들대보여안과전제주무부"
        "내면마상원장조우소너네저없것않야했으었습까세당말신선생연중오동모두진구공비경유성계관미치물때방화"
        "실바알르음든할건데더던잘못번왜뭐냐려러운되돼된될줘준좋싫감님분였겠녕",
    }
)
"""The most frequent characters of Chinese (simplified, traditional) and Korean, for texts too short for more."""
_LETTERS = MappingProxyType(
    {"cp1251": "оеаинтсрвл", "koi8_r": "оеаинтсрвл", "cp1253": "αοιετσνηυρ", "cp1255": "יוהלארמתבש"}
)
"""The most frequent ones: two of five letters at least, by themselves three of five."""


def decoded(data: bytes, encoding: str | None = None) -> tuple[str, str] | None:
    """Text and encoding of a file.

    Marks count first, then UTF-8, then where the zeros of UTF-16 and UTF-32 stand. Latin letters among ASCII are of
    Windows-1252 or -1250. Other scripts are told by charset-normalizer, short texts by what is common in a language.

    Args:
        encoding: what the file is said to be; a mark goes before it, bytes that it does not have become U+FFFD.

    Returns:
        None where no encoding is certain enough.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data.decode(name, errors="replace"), name.removesuffix("-sig")
    if encoding is not None:
        return data.decode(encoding, errors="replace"), encoding
    wide = _wide(data)
    if wide is not None:
        return data.decode(wide, errors="replace"), wide
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    found = _guessed(data)
    return None if found is None else (data.decode(found, errors="replace"), found)


def _wide(data: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: subtitles have digits, line ends and spaces, each with its zeros beside it."""
    head = data[: 4096 // 4 * 4]
    count = len(head) // 4
    if count == 0 or head.count(0) < len(head) // 8:
        return None
    zeros = [head[place::4].count(0) for place in range(4)]
    if zeros[2] > 0.9 * count and zeros[3] > 0.9 * count:
        return "utf-32-le"
    if zeros[0] > 0.9 * count and zeros[1] > 0.9 * count:
        return "utf-32-be"
    return "utf-16-le" if zeros[1] + zeros[3] > zeros[0] + zeros[2] else "utf-16-be"


def _guessed(data: bytes) -> str | None:
    high = sum(byte >= 0x80 for byte in data)
    letters = high + sum(len(word) for word in re.findall(rb"[A-Za-z]+", data))
    # A letter by itself among ASCII ones: no script of its own has only such.
    beside = len(re.findall(rb"[A-Za-z][\x80-\xff]|[\x80-\xff][A-Za-z]|\b[\xc0\xe0]\b", data))
    if high <= _LATIN_SHARE * letters and 2 * beside >= high:
        if re.search(r"[a-z][¹³¿]|[¹³¿][a-z]", data.decode("cp1252", errors="replace")):
            # Polish: these stand for its most frequent letters.
            return "cp1250"
        return (_normalizer(data, _LATIN) if high >= 8 else None) or "cp1252"
    plausible = [encoding for encoding in _OTHERS if _is_plausible(data, encoding)]
    if len(plausible) == 1:
        return plausible[0]
    return _normalizer(data, _OTHERS) if high >= _ENOUGH_BYTES else None


def _normalizer(data: bytes, encodings: tuple[str, ...]) -> str | None:
    from charset_normalizer import from_bytes

    # Lines of ASCII (numbers, times) say nothing and would dilute the rest.
    lines = b"\n".join(line for line in data.splitlines() if not line.isascii())
    best = from_bytes(lines, cp_isolation=list(encodings)).best()
    return None if best is None else best.encoding


def _is_plausible(data: bytes, encoding: str) -> bool:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return False
    letters = [letter for letter in text if ord(letter) >= 0x80 and letter.isalpha()]
    if len(letters) < _LEAST_LETTERS * (2 if encoding in _LETTERS else 1):
        return False
    joined = "".join(letters)
    if encoding in ("cp932", "euc_jp"):
        # Half-width katakana are what other encodings look like in Shift_JIS.
        return len(re.findall(r"[\u3041-\u30fc\u4e00-\u9fff]", joined)) == len(letters) and (
            len(re.findall(r"[\u3041-\u3096]", joined)) >= 0.3 * len(letters)
        )
    if encoding == "cp1255" and not all("א" <= letter <= "ת" for letter in text if ord(letter) >= 0x80):
        # Capitals of Cyrillic and Greek would be its vowel points, which subtitles do without.
        return False
    if encoding in _COMMON:
        return sum(letter in _COMMON[encoding] for letter in letters) >= _COMMON_SHARE * len(letters)
    if encoding in _LETTERS:
        # Another encoding of the same script gives capitals inside words.
        is_cased = not any(a.islower() and b.isupper() for a, b in pairwise(text))
        # Hebrew bytes are Greek letters too, but never those with an accent.
        is_accented = encoding != "cp1253" or any(letter in "άέήίόύώ" for letter in letters)
        return (
            is_cased and is_accented and sum(letter in _LETTERS[encoding] for letter in letters) >= 0.4 * len(letters)
        )
    return False
