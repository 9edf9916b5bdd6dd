"""Terms that shape a response rather than judge it, for `reward.extra` (`conf/reward/shaped.yaml`)."""

from __future__ import annotations

from rewards.reading import Reading
from rewards.text.parsing import words
from rewards.types import Verdict, scored


def length(reading: Reading, *, min_words: int, max_words: int, zero_words: int) -> Verdict:
    """1 for a think text of `min_words` to `max_words`, falling linearly to 0 at no word and at `zero_words`.

    The far side is the soft penalty for overlong responses of arXiv:2503.14476. A missing or overlong block is 0.

    Raises:
        ValueError: not 0 <= min_words <= max_words < zero_words.
    """
    if not 0 <= min_words <= max_words < zero_words:
        raise ValueError(
            f"length needs 0 <= min_words <= max_words < zero_words, found {min_words}, {max_words}, {zero_words}"
        )
    count = len(words(reading.blocks.think or ""))
    if count < min_words:
        value = count / min_words
    elif count <= max_words:
        value = float(count > 0)
    else:
        value = max(0.0, (zero_words - count) / (zero_words - max_words))
    return scored(value, {"words": count})


def repetition(reading: Reading, *, ngram: int) -> Verdict:
    """The share of distinct runs of `ngram` words in the think text: 1 where nothing is said twice.

    A text of fewer words is 1, a missing or overlong block 0.

    Raises:
        ValueError: `ngram` is below 1.
    """
    if ngram < 1:
        raise ValueError(f"repetition needs ngram >= 1, found {ngram}")
    if reading.blocks.think is None:
        return scored(0.0, {"runs": 0})
    found = words(reading.blocks.think)
    runs = [tuple(found[start : start + ngram]) for start in range(len(found) - ngram + 1)]
    return scored(len(set(runs)) / len(runs) if runs else 1.0, {"runs": len(runs)})
