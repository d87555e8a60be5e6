"""One entry of a manifest: the fields that are understood, as pydantic models.

The same models check what is loaded and make the JSON Schema that `manifest schema` prints, so the
two cannot drift apart. What a schema cannot say is left to `audio_batch.manifest`: that ids are
unique, that files are there, that `min_speakers` is not above `max_speakers`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    create_model,
)

from audio_batch import languages
from audio_batch.manifest_text import shown

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"

ALIASES: Mapping[str, tuple[str, ...]] = {
    "uri": ("uri", "path", "audio_filepath", "file_name", "url"),
    "prompt": ("prompt", "initial_prompt"),
    "formats": ("formats", "output_formats", "output_format"),
    "duration_s": ("duration_s", "duration", "duration_seconds"),
}
"""Our fields that a manifest may name otherwise; the first that is there (and not null) counts."""

SPEAKER_FIELDS = ("min_speakers", "max_speakers", "num_speakers")
OPTION_FIELDS = ("language", "task", "prompt", "hotwords", *SPEAKER_FIELDS, "priority", "formats")
_OPTION_NAMES = frozenset(name for ours in OPTION_FIELDS for name in ALIASES.get(ours, (ours,)))

_END = r"(?![\s\S])"  # the end of the text, the same in Python's dialect and in ECMA 262
_ID_CHARACTERS = r"[^\u0000-\u001f\u007f-\u009f]"
_ESCAPES = r"^(?:[A-Za-z]:|[/\\])|(?:^|[/\\])\.\.(?:[/\\]|" + _END + ")"
_ID_PATTERN = rf"^(?![A-Za-z]:|[/\\])(?!(?:.*[/\\])?\.\.(?:[/\\]|{_END})){_ID_CHARACTERS}+{_END}"
ORDINARY_ID = re.compile(r"[A-Za-z0-9_ -]+(?:[./][A-Za-z0-9_ -]+)*")  # told at once to be one
_NO_NUL = r"^[^\u0000]+" + _END

MAX_PRIORITY, MAX_SECONDS = 1_000_000, 1e9
MAX_NAME, MAX_PATH, MAX_PROMPT = 10_000, 32_767, 100_000
"""Characters of a name (it is shown again and again), of a path (Windows takes no longer one), of
a prompt (Whisper hears the last 224 tokens of it)."""


def _whole(value: object) -> object:
    """JSON has one kind of number: 2.0 is the whole number 2."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _checked_id(value: object) -> object:
    number = _whole(value)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**63:
        return str(number)
    if not isinstance(value, str):
        raise ValueError("must be text or a whole number")
    if not value:
        raise ValueError("must not be empty")
    if len(value) > 1000:
        raise ValueError("must not be longer than 1,000 characters")
    if ORDINARY_ID.fullmatch(value):
        return value
    if re.search(_ESCAPES, value):
        raise ValueError(
            'must not lead out of the output folder: no "..", no leading slash, no drive letter'
        )
    if not re.fullmatch(f"{_ID_CHARACTERS}+", value):
        raise ValueError("must not hold control characters")
    return value


def _checked_language(value: str) -> str:
    code = languages.code_of(value)
    if code is None:
        raise ValueError(
            "is no language that Whisper knows: give a code such as en, or an English name; "
            "leave it out to have the language detected"
        )
    return code


def _said(value: object) -> object:
    """Exports of databases have empty texts where nothing is known."""
    return None if value == "" else value


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


Id = Annotated[
    str,
    BeforeValidator(_checked_id),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "maxLength": 1000, "pattern": _ID_PATTERN},
                {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
            ]
        }
    ),
]
Source = Annotated[
    str,
    Field(min_length=1, max_length=MAX_PATH),
    AfterValidator(_without_nul),
    WithJsonSchema({"type": "string", "maxLength": MAX_PATH, "pattern": _NO_NUL}),
]
Prompt = Annotated[str, Field(max_length=MAX_PROMPT)]
Language = Annotated[
    Annotated[str, AfterValidator(_checked_language)] | None,
    BeforeValidator(_said),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": languages.pattern()}, {"enum": ["", None]}]}
    ),
]
Speakers = Annotated[int, Field(ge=1, le=1000), BeforeValidator(_whole)]
Priority = Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY), BeforeValidator(_whole)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]


class Options(BaseModel):
    """What an entry may ask for itself, and `defaults` for all of them; null counts as not said."""

    model_config = ConfigDict(strict=True)

    language: Language = Field(None, description="Code or English name; else detected.")
    task: Literal["transcribe", "translate"] | None = None
    prompt: Prompt | None = Field(None, description="Text that the model takes as said before.")
    initial_prompt: Prompt | None = Field(None, description="Another name of `prompt`.")
    hotwords: Prompt | None = Field(None, description="Words to listen for.")
    min_speakers: Speakers | None = None
    max_speakers: Speakers | None = None
    num_speakers: Speakers | None = None
    priority: Priority | None = Field(None, description="Higher goes first; 0 if not said.")


class Defaults(Options):
    """Options for every entry that does not say otherwise."""

    model_config = ConfigDict(extra="forbid")


class Entry(Options):
    """A recording and what is asked for it. Fields not named here travel into the output."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "string"}}}
                for name in ALIASES["uri"]
            ]
        },
    )

    id: Id | None = Field(None, description="Unique; made from the path where it is missing.")
    name: Annotated[str, Field(max_length=MAX_NAME)] | None = Field(
        None, description="For people; else the file's name."
    )
    uri: Source | None = Field(None, description="Path (from the manifest's folder) or file: URI.")
    path: Source | None = Field(None, description="Another name of `uri`.")
    audio_filepath: Source | None = Field(None, description="Another name of `uri`.")
    file_name: Source | None = Field(
        None, description="Another name of `uri`; looked for below `folder_path` first."
    )
    url: Source | None = Field(None, description="Another name of `uri`.")
    duration_s: Seconds | None = None
    duration: Seconds | None = Field(None, description="Another name of `duration_s`.")
    duration_seconds: Seconds | None = Field(None, description="Another name of `duration_s`.")


def options_of(model: BaseModel) -> dict[str, Any]:
    """The options that a model holds, by our names."""
    options: dict[str, Any] = {}
    if model.model_fields_set.isdisjoint(_OPTION_NAMES):
        return options
    for ours in OPTION_FIELDS:
        for alias in ALIASES.get(ours, (ours,)):
            if (value := getattr(model, alias)) is not None:
                options.setdefault(ours, value)
    return options


def speaker_conflicts(options: Mapping[str, Any]) -> Iterator[str]:
    """What options by our names say of speakers that cannot all be so."""
    low, high, count = (options.get(name) for name in SPEAKER_FIELDS)
    if low is not None and high is not None and low > high:
        yield f"min_speakers {low} is above max_speakers {high}"
    if count is not None and low is not None and count < low:
        yield f"num_speakers {count} is below min_speakers {low}"
    if count is not None and high is not None and count > high:
        yield f"num_speakers {count} is above max_speakers {high}"


@functools.cache
def models(known_formats: frozenset[str]) -> tuple[type[Entry], type[Defaults]]:
    """The models with the output formats that there are."""
    formats: Any = Annotated[
        tuple[str, ...],
        BeforeValidator(functools.partial(_checked_formats, known_formats)),
        WithJsonSchema(_formats_schema(known_formats)),
    ]
    fields: dict[str, Any] = dict.fromkeys(ALIASES["formats"], (formats | None, None))
    return (
        create_model("Entry", __base__=Entry, __doc__=Entry.__doc__, **fields),
        create_model("Defaults", __base__=Defaults, __doc__=Defaults.__doc__, **fields),
    )


def _checked_formats(known: frozenset[str], value: object) -> object:
    names = [name.strip(" ") for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or not names:
        raise ValueError("must be a list of output formats, or their names with commas between")
    for name in names:
        if name != "all" and (not isinstance(name, str) or name not in known):
            raise ValueError(
                f"holds {shown(name)}, which is no output format; "
                f"known: all, {', '.join(sorted(known))}"
            )
    return tuple(sorted(known)) if "all" in names else tuple(dict.fromkeys(names))


def _formats_schema(known: frozenset[str]) -> dict[str, Any]:
    names = ["all", *sorted(known)]
    one = f" *(?:{'|'.join(map(re.escape, names))}) *"
    return {
        "anyOf": [
            {"type": "array", "minItems": 1, "items": {"type": "string", "enum": names}},
            {"type": "string", "pattern": f"^{one}(?:,{one})*{_END}"},
        ]
    }


def json_schema(known_formats: frozenset[str]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a manifest; `#/$defs/Entry` is that of a JSON Lines line.

    It judges as the loader does, but for what no schema can say (see the module's docstring).
    """
    entry, defaults = models(known_formats)
    some: Any = Annotated[list[entry], Field(min_length=1)]  # type: ignore[valid-type]
    fields: Any = {"assets": (some, ...), "defaults": (defaults | None, None)}
    document = create_model("Document", **fields)
    adapter: TypeAdapter[Any] = TypeAdapter(document | some)
    return {
        "$schema": SCHEMA_DIALECT,
        "title": "audio-batch manifest",
        "description": (
            "A JSON object with `assets`, or a list of entries. In JSON Lines every line is an "
            "entry (#/$defs/Entry). Beyond this schema, ids must be unique, files must be there, "
            "and min_speakers must not be above max_speakers."
        ),
        **adapter.json_schema(),
    }


def problems(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Field ("" for the whole) and sentence of everything that a model found wrong."""
    for item in error.errors(include_url=False):
        kind, value, context = item["type"], shown(item["input"]), item.get("ctx", {})
        if kind == "value_error":
            sentence = f"{value} {context['error']}"
        elif kind == "extra_forbidden":
            sentence = f"this is no option; known: {', '.join(Defaults.model_fields)}, formats"
        elif kind in _SENTENCES:
            sentence = f"{_SENTENCES[kind].format_map(context)}, not {value}"
        else:
            sentence = f"{item['msg']}, not {value}"
        yield str(next(iter(item["loc"]), "")), sentence


_SENTENCES = {
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "must not be longer than {max_length:,} characters",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "model_type": "must be an object",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:,g}",
}
