"""Names of output files: safe on every file system, inside the output folder, never the same.

Ids and the fields of a template are other people's text. An asset's name depends on the whole
manifest and the template alone: not on which assets a run selects, nor on their order.
"""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from array import array
from collections.abc import Iterable, Sequence, Set
from typing import NoReturn

import pathvalidate

from audio_batch.asset import Asset, is_own_field
from audio_batch.assets import Assets
from audio_batch.errors import UsageError
from audio_batch.manifest_index import Texts
from audio_batch.manifest_text import shown
from audio_batch.output_names import OutputNames, Parts, file_system_key

MAX_COMPONENT_BYTES = 100
"""Of a file or folder name, a format's suffix not counted; file systems take 255."""

MAX_NAME_BYTES = 1000
"""Of a name with its folders; Linux takes 4096, Windows more than 260 if long paths are on."""

DEFAULT_TEMPLATE = "{id}"

_SHORT_HASH = 12
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_LIKE_MAPPED = re.compile(rf"--[0-9a-f]{{{_SHORT_HASH}}}\Z")
_RESERVED_TOO = ("CONIN$", "CONOUT$")  # by Windows; pathvalidate knows the others
_LIKE_A_SUFFIX = re.compile(r"\.(?=[A-Za-z][A-Za-z0-9]{0,7}\Z)")

_ORDINARY = re.compile(
    r"(?!(?i:aux|clock|com|con|lpt|nul|prn))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?"
)
"""What `pathvalidate` surely lets pass as it is, for it takes 0.1 ms: almost every id."""


def safe_component(text: str) -> str:
    """A file name of `[A-Za-z0-9._-]{1,100}` for any text: the text itself, if it is a good one.

    Anything else is mapped: other characters become `_`, and `--` with 12 hexadecimal digits of
    the text's SHA-256 is appended, so that no two texts share a name (a text that ends like that
    is itself mapped). Not good are also a dot or a dash at the beginning, a dot at the end, and
    what Windows reserves. Names that differ in case alone are left to `OutputNamer`.
    """
    if _ORDINARY.fullmatch(text) and "--" not in text:
        return text
    if _SAFE.fullmatch(text) and not _LIKE_MAPPED.search(text) and _is_valid(text):
        return text
    decomposed = unicodedata.normalize("NFKD", text)
    without_accents = "".join(c for c in decomposed if not unicodedata.combining(c))
    readable = re.sub(r"[^A-Za-z0-9]+", "_", without_accents).strip("_")
    return _with_hash(readable, text, _SHORT_HASH)


class OutputNamer:
    """Names from a template such as `{folder_path}/{name}`: plain field names in braces.

    A field is any of the manifest's, by its name there or by ours (see `Asset.field`). In order:

    - A slash of the template parts folders. A slash within a value does too, but not in the last
      component, the file's name.
    - Nothing is written for a value that is missing, null, empty, a list or an object. A component
      that names fields and gets nothing from any of them is left out; where that is the file's
      name, the id takes its place.
    - `{id}` is written as by `safe_component`. Other values keep letters and blanks; what a file
      system or a terminal stumbles over becomes `_`; blanks, dots and dashes at the ends go; a
      component of more than 100 bytes is cut and gets a hash of the whole. In a folder's name a
      dot before what could be a format's suffix becomes `_`, so that no file meets a folder.
    - A name of more than 1,000 bytes is too long for some systems: the id takes its place.
    - All assets that would share a name (also on a file system without upper case, or one that
      composes accents) get `--` and a hash of their id appended; so do `summary` and `speakers`.
    """

    def __init__(self, template: str | None = None) -> None:
        """Read the template.

        Raises:
            UsageError: it is malformed, holds anything but plain names in its braces or none at
                all, or leads out of the output folder.
        """
        self.template = DEFAULT_TEMPLATE if template is None else template
        self._components = _parsed(self.template)
        self._is_id_alone = self.template == DEFAULT_TEMPLATE

    def over(self, assets: Sequence[Asset], *, taken: Iterable[str] = ()) -> OutputNames:
        """The names of all assets of a manifest.

        Args:
            assets: all of the manifest, selected or not, with unique ids.
            taken: names that the output folder holds for assets of other manifests.

        Raises:
            UsageError: the template names a field that no asset has.
        """
        keys = array("q")
        ids: Sequence[str]
        if self._is_id_alone and isinstance(assets, Assets):
            ids = assets.entries.ids
            keys.extend(map(_key_of_id, ids))
            return OutputNames(_name_of_id, _with_hash, ids, keys, taken)
        names, ids = Texts(), Texts()
        fields = {name for component in self._components for _, name in component if name}
        missing = {name for name in fields if not is_own_field(name)}
        for asset in assets:
            wanted = self._wanted(asset)
            names.append("/".join(wanted))
            ids.append(asset.id)
            keys.append(hash(file_system_key(wanted)))
            if missing:
                missing.difference_update(asset.metadata)
        if missing and len(names):
            self._refuse_fields(missing, assets)
        return OutputNames(lambda number, _: names[number], _with_hash, ids, keys, taken)

    def _refuse_fields(self, missing: Set[str], assets: Sequence[Asset]) -> NoReturn:
        known = ", ".join(sorted({key for a in assets[:100] for key in a.metadata})[:30])
        raise UsageError(
            f"The output template names {{{min(missing)}}}, a field that no asset has.",
            remedy=f"The manifest's own fields are: {known or '(none)'}.",
        )

    def _wanted(self, asset: Asset) -> Parts:
        if self._is_id_alone:
            return (safe_component(asset.id),)
        *folder_components, file_component = self._components
        folders = [
            _as_folder(part)
            for component in folder_components
            for part in re.split(r"[/\\]", _filled(component, asset))
        ]
        file = _readable(_filled(file_component, asset)) or safe_component(asset.id)
        parts = (*filter(None, folders), file)
        if len("/".join(parts).encode()) > MAX_NAME_BYTES:
            return (safe_component(asset.id),)
        return parts


def _name_of_id(_number: int, asset_id: str) -> str:
    if _ORDINARY.fullmatch(asset_id) and "--" not in asset_id:
        return asset_id
    return safe_component(asset_id)


def _key_of_id(asset_id: str) -> int:
    if _ORDINARY.fullmatch(asset_id) and "--" not in asset_id:
        return hash((asset_id.lower(),))
    return hash(file_system_key((safe_component(asset_id),)))


_Component = tuple[tuple[str, str | None], ...]
"""Pieces of a component: a literal text, then the name of a field or None."""


def _parsed(template: str) -> tuple[_Component, ...]:
    def refuse(reason: str) -> UsageError:
        return UsageError(
            f"The output template {shown(template)} {reason}.",
            remedy='A template looks like "{folder_path}/{name}".',
        )

    try:
        pieces = list(string.Formatter().parse(template.replace("\\", "/")))
    except ValueError as error:
        raise refuse(f"is malformed: {error}") from None
    components: list[list[tuple[str, str | None]]] = [[]]
    for literal, name, specification, conversion in pieces:
        first, *others = literal.split("/")
        components[-1].append((first, None))
        components.extend([(other, None)] for other in others)
        if name is None:
            continue
        if specification or conversion or not name or re.search(r"[.\[\]{}]|\A\d+\Z", name):
            raise refuse("may hold plain field names only in its braces")
        components[-1].append(("", name))
    # Each component as it stands, with a NUL for a field.
    shapes = ["".join("\0" if name else text for text, name in c) for c in components]
    if "\0" not in "".join(shapes):
        raise refuse("holds no field in braces, so all assets would have one name")
    if (len(shapes) > 1 and not shapes[0]) or re.match("[A-Za-z]:", shapes[0]):
        raise refuse("must be relative to the output folder")
    if ".." in (shape.strip() for shape in shapes):
        raise refuse("leads out of the output folder")
    if not shapes[-1].strip(" ."):
        raise refuse("ends with a folder; the file's name is missing")
    return tuple(tuple(component) for component in components)


def _filled(component: _Component, asset: Asset) -> str:
    """A component's text, not yet sanitised; "" if it names fields and all of them are empty."""
    values = [literal if name is None else _value(asset, name) for literal, name in component]
    named = [v for v, (_, name) in zip(values, component, strict=True) if name is not None]
    return "" if named and not any(named) else "".join(values)


def _value(asset: Asset, name: str) -> str:
    if name == "id":
        return safe_component(asset.id)
    value = asset.field(name)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _readable(text: str) -> str:
    """A component for people: see `OutputNamer`; "" if nothing is left."""
    if _ORDINARY.fullmatch(text):
        return text
    composed = unicodedata.normalize("NFC", text)
    plain = "".join(map(_plain_character, composed))
    plain = re.sub(r" +(?=\.|\Z)|(?<= ) +", "", plain)  # Windows overlooks blanks before a dot
    plain = _trimmed(
        pathvalidate.sanitize_filename(
            _trimmed(plain),
            "_",
            platform="universal",
            fs_encoding="utf-8",
            additional_reserved_names=_RESERVED_TOO,
        )
    )
    if len(plain.encode()) > MAX_COMPONENT_BYTES:
        return _with_hash(plain, text, _SHORT_HASH)
    return plain


def _plain_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # joiners and marks of direction
        return ""
    if category in ("Zs", "Zl", "Zp") or character in "\t\n\r":
        return " "
    return "_" if category in ("Cc", "Cs", "Co") else character


def _trimmed(text: str) -> str:
    return text.lstrip(" .-").rstrip(" .")


def _as_folder(text: str) -> str:
    return _LIKE_A_SUFFIX.sub("_", _readable(text))


def _is_valid(text: str) -> bool:
    return bool(_ORDINARY.fullmatch(text)) or pathvalidate.is_valid_filename(
        text, platform="universal", fs_encoding="utf-8", additional_reserved_names=_RESERVED_TOO
    )


def _with_hash(readable: str, whole: str, digits: int) -> str:
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
    space = MAX_COMPONENT_BYTES - digits - 2
    cut = _trimmed(readable.encode()[:space].decode("utf-8", "ignore"))
    return f"{cut or 'asset'}--{digest}"
