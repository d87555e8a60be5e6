"""What counts as the same text: the rule is stated with every figure, for figures depend on it."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum


class Normalization(StrEnum):
    """How texts are made alike before they are compared."""

    BASIC = "basic"
    NONE = "none"

    @property
    def meaning(self) -> str:
        """The rule in words."""
        return _MEANINGS[self]


_MEANINGS = {
    Normalization.BASIC: (
        "Unicode NFKC, lower case, punctuation and symbols as blanks (apostrophes within words "
        "stay), runs of blanks as one; digits and number words as they are"
    ),
    Normalization.NONE: "texts as they are, runs of blanks as one",
}

_SPACELESS = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "]"
)


class _Plain(dict[int, str | None]):
    """A table for `str.translate` that finds a character's entry when it is first met."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        entry: str | None = character
        if character == "'":
            pass
        elif category in ("Cf", "Me") or 0xFE00 <= code <= 0xFE0F:
            entry = None  # direction marks, joiners, what makes an emoji of a sign
        elif category[0] in "PSZ" or category == "Cc":
            entry = " "
        self[code] = entry
        return entry


_PLAIN = _Plain()
_APOSTROPHES = str.maketrans("\u2019\u02bc", "''")
_LOOSE_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")


def normalized(text: str, how: Normalization) -> str:
    """`text` as it is compared: words with single blanks between, none at the ends."""
    if how is Normalization.BASIC:
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
        text = _LOOSE_APOSTROPHE.sub(" ", text.translate(_APOSTROPHES).translate(_PLAIN))
    return " ".join(text.split())


def is_spaceless(text: str) -> bool:
    """Whether most of a text's letters are of scripts without blanks between words.

    Chinese, Japanese, Thai, Lao, Khmer and Burmese are; Korean is not. There a "word" is whatever
    somebody's splitter says, and characters are what is counted.
    """
    letters = sum(character.isalnum() for character in text)
    return 2 * len(_SPACELESS.findall(text)) > letters
