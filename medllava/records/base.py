"""JSON in and out for frozen dataclasses, with errors that name the field.

A class that derives from `Record` is its own schema: annotations say what a field takes, defaults
say what may be absent. `VersionedRecord` is a record that is a whole file and knows its version.
"""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Self

from medllava.errors import RecordError


class Record:
    """JSON in and out for the dataclasses below, with errors that name the field."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values, fields in declaration order."""
        plain: dict[str, Any] = {}
        for name in _layout(type(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            plain[name] = value if type(value) in _JSON_TYPES else _plain(value)
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Build the record from a JSON object.

        Args:
            values: the parsed object; unknown keys are ignored, so newer files stay readable.
            where: file and line, or id, for the error message.

        Raises:
            RecordError: a required field is absent or a value has the wrong type.
        """
        given: dict[str, Any] = {}
        for name, (shape, is_required) in _layout(cls).items():  # type: ignore[arg-type]
            if name in values:
                value = values[name]
                if type(value) not in shape.as_is:
                    value = _typed(value, shape, f"{where}: {name}")
                given[name] = value
            elif is_required:
                raise RecordError(f"{cls.__name__} has no {name!r}: {where}.")
        return cls(**given)


class VersionedRecord(Record):
    """A record that is a file between rooms; files of earlier versions are brought up to date."""

    __slots__ = ()
    VERSION: ClassVar[int]
    """Raised when a reader of the version before would misread the file."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Build the record from a file of this version or an earlier one.

        Raises:
            RecordError: as `Record.from_json`, or the file is of a later version.
        """
        version = values.get("schema_version", 1)
        if not isinstance(version, int) or version > cls.VERSION:
            raise RecordError(
                f"version {version} of this file is newer than {cls.VERSION}, the last that this "
                f"medllava reads: {where}. Upgrade medllava."
            )
        upgraded = cls._upgraded(values, version=version)
        return super().from_json({**upgraded, "schema_version": cls.VERSION}, where=where)

    @classmethod
    def _upgraded(cls, values: Mapping[str, Any], *, version: int) -> Mapping[str, Any]:
        """Return the values of an earlier version's file as this version writes them."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What values a field takes, resolved from its annotation."""

    hint: Any
    """The annotation without None."""
    as_is: frozenset[type]
    """Types whose values are kept unlooked at; most values are of one."""
    item: "_Shape | None" = None
    """Of the items, if the field is a tuple, or of the values, if it is a dict."""


_JSON_TYPES = frozenset((str, int, float, bool, NoneType))
"""Types that `to_json` passes on."""
_SCALARS = frozenset((str, int, float, bool))
_SEQUENCES = (tuple, list)


@cache
def _layout(record: type[Record]) -> dict[str, tuple[_Shape, bool]]:
    """Return the shape of each field and whether it is required, in declaration order."""
    # Resolving annotations costs more than checking a record; a manifest has millions of them.
    hints = typing.get_type_hints(record)
    return {
        f.name: (
            _shape(hints[f.name]),
            f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING,
        )
        for f in dataclasses.fields(record)  # type: ignore[arg-type]
    }


def _shape(hint: Any) -> _Shape:  # noqa: ANN401 - an annotation is any
    as_is: set[type] = set()
    if typing.get_origin(hint) in {UnionType, typing.Union}:
        args = typing.get_args(hint)
        as_is |= {NoneType} & set(args)
        hint = next(arg for arg in args if arg is not NoneType)
    if hint in _SCALARS:
        as_is.add(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    item = None
    if origin is tuple:
        item = _shape(args[0])
    elif origin is dict and args[1] is not Any:
        item = _shape(args[1])
    return _Shape(hint=hint, as_is=frozenset(as_is), item=item)


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON is any
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, _SEQUENCES):
        return [item if type(item) in _JSON_TYPES else _plain(item) for item in value]
    if isinstance(value, dict):
        return {k: v if type(v) in _JSON_TYPES else _plain(v) for k, v in value.items()}
    return value.value if isinstance(value, StrEnum) else value


def _typed(value: Any, shape: _Shape, where: str) -> Any:  # noqa: ANN401, C901, PLR0911 - one case per JSON type
    if type(value) in shape.as_is:
        return value
    hint = shape.hint
    if typing.get_origin(hint) is dict:
        if isinstance(value, Mapping):
            return _typed_values(value, shape.item, where)
    elif shape.item is not None and isinstance(value, _SEQUENCES):
        as_is = shape.item.as_is
        if all(type(item) in as_is for item in value):
            return tuple(value)
        return tuple(_typed(item, shape.item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(hint, type):
        if issubclass(hint, Record) and isinstance(value, Mapping):
            return hint.from_json(value, where=where)
        if issubclass(hint, StrEnum) and isinstance(value, str):
            try:
                return hint(value.lower())
            except ValueError:
                raise RecordError(f"{value!r} is not one of {', '.join(hint)}: {where}.") from None
        if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
            return value
    expected = hint.__name__ if isinstance(hint, type) else str(hint)
    raise RecordError(f"expected {expected}, got {type(value).__name__} {value!r:.60}: {where}.")


def _typed_values(values: Mapping[str, Any], item: _Shape | None, where: str) -> dict[str, Any]:
    if item is None:
        return dict(values)
    return {str(key): _typed(value, item, f"{where}.{key}") for key, value in values.items()}
