"""Fill a frozen struct of sections from a TOML file and, over it, from variables.

The struct's fields are sections (structs of plain keys) or plain keys of the top level. Every name that is given must
be one of them, every value must fit its declaration, and a password comes from a file of its own or from a variable.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec

S = TypeVar("S", bound=msgspec.Struct)
Key = tuple[str, str]  # section ('' for the top level) and key

_FILE_BYTES: Final = 64 * 1024  # of a configuration; the one that ships has three thousand
_SECRET_BYTES: Final = 4 * 1024


class ConfigError(ValueError):
    """The configuration cannot be used; the message says which setting, why, and what to write instead."""


class Secret:
    """Text that shows itself only when asked: never in a repr, a log line or a traceback."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself, to hand to a client library."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class Given(NamedTuple):
    """One value as it was written, before it has its type."""

    value: object
    where: str  # names it in an error: `kafka.group in tipstream.toml`
    is_text: bool  # a variable is text and may be read as a number; a file has the right type or is wrong


def layered(kind: type[S], path: Path | None, variables: Mapping[str, str], prefix: str) -> S:
    """Return a `kind` with the file's values, the variables' over them, and defaults for the rest.

    Only variables that begin with `prefix` count, and all of those must be known. Raises ConfigError.
    """
    given = dict(_from_file(kind, path, prefix)) if path else {}
    given.update(_from_variables(kind, variables, prefix))
    parts = {name: _build(section, name, given, prefix) for name, section in sections(kind).items()}
    return kind(**parts, **_typed(kind, "", given))


def sections(kind: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """Return the fields of `kind` that are structs, in order."""
    return {name: hint for name, hint in _hints(kind).items() if _is_section(hint)}


def keys(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the fields of `kind` that are no sections, with their declared types."""
    return {name: hint for name, hint in _hints(kind).items() if not _is_section(hint)}


def variable(prefix: str, section: str, key: str) -> str:
    """Return the name of the variable that sets a key."""
    return f"{prefix}{section}__{key}".upper() if section else f"{prefix}{key}".upper()


def _from_file(kind: type[msgspec.Struct], path: Path, prefix: str) -> Iterator[tuple[Key, Given]]:
    text = _text(f"the configuration {path}", path, _FILE_BYTES)
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError is one, and so is what a number of thousands of digits raises
        raise ConfigError(f"{path} is not TOML: {error}.") from None
    except RecursionError:
        raise ConfigError(f"{path} is no configuration: its values nest too deep.") from None
    known = sections(kind)
    for name, value in document.items():
        _refuse_unknown(name, f"{name} in {path}", [*known, *keys(kind)], "")
        if name not in known:
            yield ("", name), Given(value, f"{name} in {path}", is_text=False)
            continue
        if not isinstance(value, dict):
            raise ConfigError(f"{name} in {path} is a section: write [{name}] and its keys below.")
        for key, inner in value.items():
            where = f"{name}.{key} in {path}"
            _refuse_unknown(key, where, keys(known[name]), f"{name}.")
            if key == "password":
                raise ConfigError(
                    f"{where} must go: set {name}.password_file or the variable {variable(prefix, name, key)} instead."
                )
            yield (name, key), Given(inner, where, is_text=False)


def _from_variables(
    kind: type[msgspec.Struct], variables: Mapping[str, str], prefix: str
) -> Iterator[tuple[Key, Given]]:
    known = {variable(prefix, "", key): ("", key) for key in keys(kind)}
    for name, section in sections(kind).items():
        known |= {variable(prefix, name, key): (name, key) for key in keys(section)}
    for name in sorted(variables):
        if name.startswith(prefix):
            _refuse_unknown(name, f"The variable {name}", known, "")
            yield known[name], Given(variables[name], f"The variable {name}", is_text=True)


def _build(section: type[S], name: str, given: Mapping[Key, Given], prefix: str) -> S:
    values = _typed(section, name, given)
    path = values.get("password_file")
    if isinstance(path, Path):
        if "password" in values:
            raise ConfigError(
                f"{name}.password_file and {variable(prefix, name, 'password')} are both set: remove one of them."
            )
        values["password"] = _secret(f"{name}.password_file {path}", path)
    return section(**values)


def _typed(section: type[msgspec.Struct], name: str, given: Mapping[Key, Given]) -> dict[str, Any]:
    """Return the section's given values with their declared types, within their declared bounds."""
    values: dict[str, Any] = {}
    for key, hint in keys(section).items():
        if (name, key) in given:
            value, where, is_text = given[name, key]
            if is_text and _is_list(hint) and value not in _literals(hint):
                value = [word.strip() for word in str(value).split(",")]
            try:
                values[key] = msgspec.convert(value, hint, strict=not is_text, dec_hook=_custom)
            except (msgspec.ValidationError, TypeError) as error:
                # From None: the traceback would show the value, which may be a secret.
                raise ConfigError(f"{where} cannot be used: {str(error).rstrip('.')}.") from None
    return values


def _secret(what: str, path: Path) -> Secret:
    text = _text(what, path, _SECRET_BYTES).rstrip("\r\n")
    if not text:
        raise ConfigError(f"{what} is empty: write the password into it.")
    return Secret(text)


def _text(what: str, path: Path, limit: int) -> str:
    """Read a file that may be anything: a device that never ends, somebody's photograph."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"Cannot read {what}: {error.strerror}.") from None
    except ValueError as error:  # a path that no file can have
        raise ConfigError(f"Cannot read {what}: {error}.") from None
    if len(data) > limit:
        raise ConfigError(f"Cannot read {what}: it has more than {limit} bytes, so it must be something else.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"Cannot read {what}: it is not UTF-8 text.") from None


def _custom(kind: type[Any], value: object) -> object:
    if not isinstance(value, str) or not value:
        raise TypeError("Expected text that is not empty")
    return kind(value)


def _refuse_unknown(name: str, where: str, known: Iterable[str], prefix: str) -> None:
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        raise ConfigError(
            f"{where} is not a setting. "
            + (f"Did you mean {prefix}{near[0]}?" if near else "docs/configuration.md lists those there are.")
        )


@cache
def _hints(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _is_list(hint: Any) -> bool:
    return tuple[str, ...] in _choices(hint)


def _literals(hint: Any) -> list[Any]:
    return [word for choice in _choices(hint) if get_origin(choice) is Literal for word in get_args(choice)]


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the members of an (annotated) union; of anything else, its arguments."""
    return get_args(get_args(hint)[0] if get_origin(hint) is Annotated else hint)
