"""The languages that Whisper models know: their codes and their English names.

A table of its own because the library that has one takes seconds to import; a test compares the
two. Source: the tokenizer of Whisper (Radford et al. 2022), whose codes are ISO 639 but for a few.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from audio_batch.errors import UsageError

LANGUAGES: Mapping[str, str] = MappingProxyType(
    {
        "af": "Afrikaans",
        "am": "Amharic",
        "ar": "Arabic",
        "as": "Assamese",
        "az": "Azerbaijani",
        "ba": "Bashkir",
        "be": "Belarusian",
        "bg": "Bulgarian",
        "bn": "Bengali",
        "bo": "Tibetan",
        "br": "Breton",
        "bs": "Bosnian",
        "ca": "Catalan",
        "cs": "Czech",
        "cy": "Welsh",
        "da": "Danish",
        "de": "German",
        "el": "Greek",
        "en": "English",
        "es": "Spanish",
        "et": "Estonian",
        "eu": "Basque",
        "fa": "Persian",
        "fi": "Finnish",
        "fo": "Faroese",
        "fr": "French",
        "gl": "Galician",
        "gu": "Gujarati",
        "ha": "Hausa",
        "haw": "Hawaiian",
        "he": "Hebrew",
        "hi": "Hindi",
        "hr": "Croatian",
        "ht": "Haitian Creole",
        "hu": "Hungarian",
        "hy": "Armenian",
        "id": "Indonesian",
        "is": "Icelandic",
        "it": "Italian",
        "ja": "Japanese",
        "jw": "Javanese",
        "ka": "Georgian",
        "kk": "Kazakh",
        "km": "Khmer",
        "kn": "Kannada",
        "ko": "Korean",
        "la": "Latin",
        "lb": "Luxembourgish",
        "ln": "Lingala",
        "lo": "Lao",
        "lt": "Lithuanian",
        "lv": "Latvian",
        "mg": "Malagasy",
        "mi": "Maori",
        "mk": "Macedonian",
        "ml": "Malayalam",
        "mn": "Mongolian",
        "mr": "Marathi",
        "ms": "Malay",
        "mt": "Maltese",
        "my": "Myanmar",
        "ne": "Nepali",
        "nl": "Dutch",
        "nn": "Nynorsk",
        "no": "Norwegian",
        "oc": "Occitan",
        "pa": "Punjabi",
        "pl": "Polish",
        "ps": "Pashto",
        "pt": "Portuguese",
        "ro": "Romanian",
        "ru": "Russian",
        "sa": "Sanskrit",
        "sd": "Sindhi",
        "si": "Sinhala",
        "sk": "Slovak",
        "sl": "Slovenian",
        "sn": "Shona",
        "so": "Somali",
        "sq": "Albanian",
        "sr": "Serbian",
        "su": "Sundanese",
        "sv": "Swedish",
        "sw": "Swahili",
        "ta": "Tamil",
        "te": "Telugu",
        "tg": "Tajik",
        "th": "Thai",
        "tk": "Turkmen",
        "tl": "Tagalog",
        "tr": "Turkish",
        "tt": "Tatar",
        "uk": "Ukrainian",
        "ur": "Urdu",
        "uz": "Uzbek",
        "vi": "Vietnamese",
        "yi": "Yiddish",
        "yo": "Yoruba",
        "yue": "Cantonese",
        "zh": "Chinese",
    }
)
"""Code to English name. `yue` is known to large-v3 and its descendants only."""

_SYNONYMS = {
    "burmese": "my",
    "castilian": "es",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "mandarin": "zh",
    "moldavian": "ro",
    "moldovan": "ro",
    "panjabi": "pa",
    "pushto": "ps",
    "sinhalese": "si",
    "valencian": "ca",
    # ISO 639 codes of today for what Whisper names otherwise
    "fil": "tl",
    "jv": "jw",
    "nb": "no",
}

_CODES = {
    **{code: code for code in LANGUAGES},
    **{name.lower(): code for code, name in LANGUAGES.items()},
    **_SYNONYMS,
}

_TAG_TAIL = r"(?:[-_][A-Za-z0-9]{1,8})+"


def code_of(text: str) -> str | None:
    """Whisper's code of a language given by code, tag or English name, or None if it knows none.

    Case does not matter, and of a language tag (`en-US`, `zh-Hant-TW`) the first part counts.
    """
    if not text.isascii():  # some letters beyond ASCII have an ASCII letter for a lower case
        return None
    code = _CODES.get(text.lower())
    if code is None and (tag := re.fullmatch(rf"([A-Za-z]{{2,3}}){_TAG_TAIL}", text)):
        code = _CODES.get(tag[1].lower())
    return code


def pattern() -> str:
    """A regular expression (ECMA 262, without flags) of what `code_of` knows."""
    names = "|".join(_any_case(name) for name in sorted(_CODES))
    codes = "|".join(_any_case(name) for name in sorted(_CODES) if len(name) <= 3)
    return rf"^(?:{names}|(?:{codes}){_TAG_TAIL})(?![\s\S])"


def _any_case(text: str) -> str:
    return "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in text)


def asked_language(text: str | None) -> str | None:
    """The code of `--language`; None for auto.

    Raises:
        UsageError: no language of Whisper is called so.
    """
    if text is None or text.lower() == "auto":
        return None
    code = code_of(text)
    if code is None:
        raise UsageError(
            f"--language {text!r} is no language that Whisper knows.",
            remedy="Use a code such as en, de, zh, its English name, or auto.",
        )
    return code
