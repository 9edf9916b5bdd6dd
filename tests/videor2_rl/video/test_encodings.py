"""Encodings are told, or not guessed."""

# Letters of other scripts are what this is about.

from __future__ import annotations

import pytest

from videor2_rl.video.encodings import decoded

CHINESE = "你好，世界\n我们现在该怎么办？\n他昨天没有来上班\n我不知道你在说什么\n请把门关上"
TAIWANESE = "你好，世界\n我們現在該怎麼辦？\n他昨天沒有來上班\n我不知道你在說什麼\n請把門關上"
JAPANESE = "こんにちは\n私たちはどうすればいいの？\n彼は昨日来なかった\nドアを閉めてください\nまた明日"
KOREAN = "안녕하세요 여러분\n우리는 이제 어떻게 하죠?\n그는 어제 오지 않았어요\n문을 닫아 주세요\n고마워요"
RUSSIAN = "Привет, мир\nЧто нам теперь делать?\nЯ не знаю, о чём ты\nСпасибо за помощь"
GREEK = "Τι κάνουμε τώρα;\nΔεν ξέρω τι λες\nΕυχαριστώ για τη βοήθεια\nΤα λέμε αύριο"
POLISH = "Wczoraj nie przyszedł do pracy\nDziękuję za pomoc\nJaka ładna pogoda\nOni kroją chleb"
FRENCH = "C'est une très longue histoire\nVite, on va être en retard\nPersonne ne connaît la vérité"
LONG_ARABIC = "ماذا نفعل الآن؟\nلا أعرف ماذا تقول\nشكرا على المساعدة\nهل رأيت تلك السيارة؟\nلا أحد يعرف الحقيقة\n" * 3


def srt(text: str) -> str:
    return "\n".join(
        f"{i}\n00:00:{i:02d},000 --> 00:00:{i:02d},900\n{line}\n" for i, line in enumerate(text.split("\n"), 1)
    )


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (CHINESE, "gb18030"),
        (TAIWANESE, "big5"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        (KOREAN, "cp949"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (GREEK, "cp1253"),
        (POLISH, "cp1250"),
        (FRENCH, "cp1252"),
        (LONG_ARABIC, "cp1256"),
    ],
)
def test_subtitles_of_a_few_cues_are_read_in_the_encodings_of_their_language(text: str, encoding: str) -> None:
    assert decoded(srt(text).encode(encoding)) == (srt(text), encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", [CHINESE, RUSSIAN, FRENCH, "Hello there"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_unicode_is_known_with_and_without_a_mark(text: str, encoding: str, mark: str) -> None:
    found = decoded(f"{mark}{srt(text)}".encode(encoding))
    assert found is not None and found[0].lstrip("\ufeff") == srt(text)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("等一下", "gb18030"), ("잠깐", "cp949"), ("شكرا", "cp1256"), ("Да", "cp1251"), ("אל תיגע בכפתור", "cp1255")],
)
def test_a_few_letters_of_another_script_are_not_guessed(text: str, encoding: str) -> None:
    assert decoded(srt(text).encode(encoding)) is None


def test_a_named_encoding_is_taken_where_none_could_be_told_and_a_mark_goes_before_it() -> None:
    assert decoded(srt("等一下").encode("gb18030"), "gb18030") == (srt("等一下"), "gb18030")
    assert decoded(b"\xef\xbb\xbf" + srt(FRENCH).encode(), "gb18030") == (srt(FRENCH), "utf-8")
