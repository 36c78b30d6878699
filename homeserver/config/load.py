"""From YAML and environment to a `Config`, or to the list of everything that is wrong with it.

Contract:
1. All problems are reported at once, each as one line `path: what is wrong`.
2. Unknown keys are problems; the nearest known key is suggested.
3. The file is bounded in size and depth and holds plain data only (no aliases, no tags).
4. Values of secret keys never appear in a message.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from dataclasses import MISSING
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from homeserver.config import checks
from homeserver.config.options import Option, default_of, key_of, option_of
from homeserver.config.schema import Config, IpNetwork, Media

MAX_FILE_BYTES = 1024 * 1024
MAX_ITEMS = 10_000
ENVIRONMENT_PREFIX = "CHAOS_"

_Section = TypeVar("_Section")


class ConfigError(Exception):
    """Everything that is wrong with a configuration, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases (no expansion bombs), without tags and with duplicate keys refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not supported", event.start_mark)
        # A lone "!" names none.
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.constructor.ConstructorError(None, None, "tags are not supported", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            text = str(key_node.value)
            if text in seen:
                message = f"the key {text!r} appears twice"
                raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
            seen.add(text)
        return super().construct_mapping(node, deep=deep)


def load_config(path: Path, environment: Mapping[str, str]) -> Config:
    """Read a file, apply the environment, check it all. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError([f"{path} does not exist; `chaos init` writes one"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    return parse_config(raw, environment, folder=path.absolute().parent, name=str(path))


def parse_config(
    raw: bytes, environment: Mapping[str, str], *, folder: Path, name: str = "chaos.yaml"
) -> Config:
    """Like `load_config`, for text at hand; `folder` is what relative paths start from."""
    return build_config(parse_document(raw, name), environment, folder=folder)


def parse_document(raw: bytes, name: str) -> dict[Any, Any]:
    """Bounded, plain YAML: keys and values. Raises `ConfigError`."""
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError([f"{name}: larger than {MAX_FILE_BYTES} bytes"])
    try:
        document = yaml.load(raw, Loader=_PlainLoader)  # noqa: S506 (a SafeLoader, only stricter)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError([f"{where}: {error.problem or 'not valid YAML'}"]) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError([f"{name}: {' '.join(str(error).split())[:200]}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{name}: nested too deeply"]) from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError([f"{name}: expected keys and values, not {_kind(document)}"])
    return document


def build_config(document: Mapping[Any, Any], environment: Mapping[str, str], *, folder: Path) -> Config:
    """Check a parsed document. The environment wins over the file."""
    reader = _Reader(folder)
    merged = dict(document)
    merged.update(reader.read_environment(environment))
    config = reader.read_section(Config, merged, "", MISSING)
    if isinstance(config, Config):
        reader.problems.extend(_cross_checks(config))
        if not reader.problems:
            return config
    raise ConfigError(reader.problems)


class _Reader:
    """Walks the document beside the dataclasses and collects problems."""

    __slots__ = ("folder", "problems")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def read_environment(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """`CHAOS_<KEY>` for each top-level scalar; an empty value means null."""
        found: dict[str, Any] = {}
        hints = get_type_hints(Config)
        for declared in dataclasses.fields(Config):
            variable = ENVIRONMENT_PREFIX + declared.name.upper()
            text = environment.get(variable)
            kind = _without_none(hints[declared.name])
            if text is None or kind not in (str, int, float, bool, Path):
                continue
            value = _from_text(text, kind)
            if kind is Path and value:
                value = str(Path(value).absolute())  # what a shell says is relative to where it says so
            found[declared.name] = value
        return found

    def read_section(self, kind: type[_Section], value: object, path: str, default: Any) -> _Section | None:
        """A nested mapping; keys that are absent keep the values of `default`, or of the class."""
        if not isinstance(value, Mapping):
            self.problems.append(f"{path}: expected keys and values, not {_kind(value)}")
            return None
        hints = get_type_hints(kind)
        declarations = {key_of(declared): declared for declared in dataclasses.fields(kind)}  # type: ignore[arg-type]
        before = len(self.problems)
        prefix = f"{path}." if path else ""
        for key in value:
            if key not in declarations:
                self.problems.append(
                    f"{prefix}{_printable(_text_of(key))}: unknown key{_suggest(_text_of(key), declarations)}"
                )
        arguments: dict[str, Any] = {}
        for key, declared in declarations.items():
            fallback = getattr(default, declared.name) if default is not MISSING else default_of(declared)
            if key in value:
                hint = hints[declared.name]
                arguments[declared.name] = self.read_value(
                    hint, option_of(declared), value[key], prefix + key, fallback
                )
            elif fallback is MISSING:
                self.problems.append(f"{prefix}{key}: required")
            elif isinstance(fallback, Path):
                arguments[declared.name] = self.folder / fallback
            else:
                arguments[declared.name] = fallback
        if len(self.problems) > before:
            return None
        return kind(**arguments)

    def read_value(self, hint: Any, option: Option, value: object, path: str, default: Any) -> Any:
        """One value of the declared type, or None with a problem noted."""
        if hint == IpNetwork:
            return self._read_network(value, path)
        origin = get_origin(hint)
        if origin is types.UnionType:
            if value is None:
                return None
            return self.read_value(_without_none(hint), option, value, path, default)
        if origin is Literal:
            return self._read_choice(get_args(hint), value, path)
        if origin is tuple:
            return self._read_list(get_args(hint)[0], option, value, path)
        if origin is Mapping:
            return self._read_free(option, value, path)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            base = default if isinstance(default, hint) else MISSING
            return self.read_section(hint, {} if value is None and base is not MISSING else value, path, base)
        return self._read_scalar(hint, option, value, path)

    def _read_scalar(self, hint: Any, option: Option, value: object, path: str) -> Any:
        if hint is bool:
            return value if isinstance(value, bool) else self._expected("true or false", value, path, option)
        if hint in (int, float):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole and not (hint is float and isinstance(value, float)):
                return self._expected("a whole number" if hint is int else "a number", value, path, option)
            within = self._in_range(value, option, path)
            return float(within) if hint is float and within is not None else within
        if not isinstance(value, str):
            hint_text = "text in quotes" if isinstance(value, int | float) else "text"
            return self._expected(hint_text, value, path, option)
        if "\x00" in value:
            self.problems.append(f"{path}: must not contain a zero byte")
            return None
        if hint is Path:
            if not value.strip():
                self.problems.append(f"{path}: must not be empty")
                return None
            try:
                return self.folder / Path(value).expanduser()
            except (RuntimeError, UnicodeError):
                self.problems.append(f"{path}: the home folder in {value[:60]!r} is not known")
                return None
        if option.check is not None:
            try:
                option.check(value)
            except ValueError as error:
                self.problems.append(f"{path}: {error}")
                return None
        return value

    def _in_range(self, value: Any, option: Option, path: str) -> Any:
        low, high = option.minimum, option.maximum
        # Written so that NaN, which compares as false with everything, is out of range.
        if (low is None or value >= low) and (high is None or value <= high):
            return value
        self.problems.append(f"{path}: {_number(value)} is out of range, expected {range_text(option)}")
        return None

    def _read_choice(self, choices: tuple[Any, ...], value: object, path: str) -> Any:
        if isinstance(value, str) and value in choices:
            return value
        listed = ", ".join(str(choice) for choice in choices)
        shown = value[:40] if isinstance(value, str) else _kind(value)
        known = {str(choice): None for choice in choices}
        self.problems.append(f"{path}: {shown!r} is none of {listed}{_suggest(str(shown), known)}")
        return None

    def _read_list(self, hint: Any, option: Option, value: object, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            self._expected("a list", value, path, option)
            return ()
        if len(value) > MAX_ITEMS:
            self.problems.append(f"{path}: more than {MAX_ITEMS} items")
            return ()
        items = [
            self.read_value(hint, option, item, f"{path}[{index}]", MISSING)
            for index, item in enumerate(value)
        ]
        return tuple(items)

    def _read_free(self, option: Option, value: object, path: str) -> Mapping[str, Any]:
        """Whatever JSON can say."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._expected("keys and values", value, path, option)
            return {}
        try:
            checks.check_json(value)
            if option.check is not None:
                option.check(value)
        except ValueError as error:
            self.problems.append(f"{path}: {error}")
        return value

    def _read_network(self, value: object, path: str) -> IpNetwork | None:
        if isinstance(value, str):
            try:
                return ip_network(value)
            except ValueError as error:
                detail = (
                    "has host bits set" if "host bits" in str(error) else "is not a range like 10.0.0.0/8"
                )
                self.problems.append(f"{path}: {value[:60]!r} {detail}")
                return None
        self.problems.append(f"{path}: expected a range like 10.0.0.0/8, not {_kind(value)}")
        return None

    def _expected(self, wanted: str, value: object, path: str, option: Option) -> None:
        shown = (
            ""
            if option.secret or not isinstance(value, bool | int | float | str)
            else f" {_text_of(value)[:60]!r}"
        )
        self.problems.append(f"{path}: expected {wanted}, not {_kind(value)}{shown}")


def range_text(option: Option) -> str:
    """`1 to 65535`, `at least 1`, or nothing."""
    if option.minimum is not None and option.maximum is not None:
        return f"{_number(option.minimum)} to {_number(option.maximum)}"
    if option.minimum is not None:
        return f"at least {_number(option.minimum)}"
    return f"at most {_number(option.maximum)}" if option.maximum is not None else ""


def _cross_checks(config: Config) -> list[str]:
    """What no single key can know."""
    problems = []
    if not config.listeners:
        problems.append("listeners: at least one is needed")
    taken: dict[tuple[str, int], int] = {}
    for index, listener in enumerate(config.listeners):
        if not listener.serve:
            problems.append(
                f"listeners[{index}].serve: at least one of client, federation, web, health, metrics"
            )
        first = taken.setdefault((listener.bind, listener.port), index)
        if listener.port and first != index:
            problems.append(
                f"listeners[{index}]: {listener.bind}:{listener.port} is taken by listeners[{first}]"
            )
    if config.federation.retry_min_s > config.federation.retry_max_s:
        problems.append("federation.retry_min_s: must not be larger than federation.retry_max_s")
    if config.turn.uris and config.turn.shared_secret is None:
        problems.append("turn.shared_secret: required where turn.uris are given")
    problems += _check_storage(config.media)
    for index, contact in enumerate(config.support.contacts):
        if contact.matrix_id is None and contact.email_address is None:
            problems.append(f"support.contacts[{index}]: matrix_id or email_address is required")
    return problems


def _check_storage(media: Media) -> list[str]:
    if media.s3 is None:
        return ["media.s3: required where media.storage is s3"] if media.storage == "s3" else []
    if media.storage != "s3":
        return ["media.s3: given, but media.storage is not s3"]
    if (media.s3.secret_access_key is None) == (media.s3.secret_access_key_file is None):
        return ["media.s3: either secret_access_key or secret_access_key_file is required"]
    return []


def _printable(text: str) -> str:
    """Short, and on one line."""
    return "".join(character if character.isprintable() else "?" for character in text[:80])


def _suggest(key: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key[:80].lower(), known, n=1, cutoff=0.5)
    return f", did you mean {near[0]}?" if near else ""


def _without_none(hint: Any) -> Any:
    """`X` of `X | None`."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if get_origin(hint) is types.UnionType and len(kinds) == 1 else hint


def _from_text(text: str, kind: Any) -> Any:
    """The value of an environment variable; what does not parse stays text and is refused later."""
    if text == "":
        return None
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


def _text_of(value: object) -> str:
    """`str`, which refuses integers of thousands of digits; the file may hold such, in hexadecimal."""
    huge = isinstance(value, int) and value.bit_length() > 200
    return "a huge number" if huge else str(value)


def _number(value: float) -> str:
    if isinstance(value, int):
        return _text_of(value)
    return str(int(value)) if value == value // 1 else str(value)


def _kind(value: object) -> str:
    names = {
        dict: "keys and values",
        list: "a list",
        str: "text",
        bool: "true or false",
        type(None): "nothing",
    }
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
