"""The OpenAPI files of the specification, as judges of requests and answers.

    spec = Specification(folder)                    # …/matrix-spec, with api/ and event-schemas/
    operation = spec.find("PUT", "/_matrix/federation/v1/send/1")
    operation.problems_of_request(uri, body)        # what is wrong with it, in words: empty where nothing is
    operation.problems_of_answer(status, headers, body)

OpenAPI 3.1 schemas are JSON Schema 2020-12, and their references are relative file names, so each file is one resource
under its own address. Only what is asked for is read: parsing YAML is what this costs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import yaml
from jsonschema_rs import Draft202012Validator, Registry

from scripts.totals import REPOSITORY

VARIABLE = "MATRIX_SPEC_DIR"
CLIENT_SERVER = "client-server"
SERVER_SERVER = "server-server"
_PARAMETER = re.compile(r"\{[^{}]*\}")
_METHODS = ("get", "put", "post", "delete")


def find_folder() -> Path | None:
    """Where the specification's files are, if they are anywhere."""
    given = os.environ.get(VARIABLE)
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "matrix-spec"
    return folder.resolve() if (folder / "api" / SERVER_SERVER).is_dir() else None


@cache
def read_document(path: Path) -> Any:
    """A YAML or JSON file; not to be changed."""
    return _with_names(yaml.load(path.read_bytes(), yaml.CSafeLoader))


def _with_names(value: Any) -> Any:
    """The same with keys that are texts: some files name versions without quotes, which YAML takes for numbers."""
    if isinstance(value, dict):
        return {str(key): _with_names(one) for key, one in value.items()}
    return [_with_names(one) for one in value] if isinstance(value, list) else value


@cache
def _named_by(path: Path) -> frozenset[Path]:
    """The files that a file refers to."""
    found: set[Path] = set()
    waiting = [read_document(path)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            name = value.get("$ref")
            if isinstance(name, str) and not name.startswith("#"):
                found.add((path.parent / name.partition("#")[0]).resolve())
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return frozenset(found)


@cache
def _registry(path: Path) -> Registry:
    """A file, and all that it leads to."""
    known, waiting = {path}, [path]
    while waiting:
        more = _named_by(waiting.pop()) - known
        known |= more
        waiting += more
    return Registry([(one.as_uri(), read_document(one)) for one in known])


@cache
def validator(path: Path, pointer: str = "") -> Draft202012Validator:
    """Of the schema at a place in a file."""
    return Draft202012Validator({"$ref": f"{path.as_uri()}#{quote(pointer)}"}, registry=_registry(path))


def problems(path: Path, pointer: str, value: Any) -> list[str]:
    """What a schema says of a value, each with the place in it."""
    return [
        f"{_place_of(error.instance_path)}: {error.message[:300]}"
        for error in validator(path, pointer).iter_errors(value)
    ]


def _place_of(parts: Sequence[str | int]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _escape(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")


class Operation:
    """One method of one path."""

    def __init__(self, path: Path, template: str, key: str, method: str, description: Any) -> None:
        self.file = path
        self.template = template
        self.method = method.upper()
        self.pattern = re.compile(
            "".join(
                "[^/]+" if part.startswith("{") else re.escape(part)
                for part in re.split(r"(\{[^{}]*\})", template)
            )
        )
        self._pointer = f"/paths/{_escape(key)}/{method}"
        self._description = description
        shared = read_document(path)["paths"][key].get("parameters", ())
        self._parameters = [self._resolve(one) for one in (*description.get("parameters", ()), *shared)]

    @property
    def name(self) -> str:
        return f"{self.method} {self.template}"

    @property
    def statuses(self) -> set[int]:
        return {int(status) for status in self._description["responses"]}

    @cached_property
    def literals(self) -> int:
        """How much of the template is no parameter: of two that fit, the one with more is meant."""
        return len(_PARAMETER.sub("", self.template))

    def _resolve(self, value: Any) -> Any:
        """A parameter or answer that is written elsewhere."""
        while "$ref" in value:
            name, _, pointer = value["$ref"].partition("#")
            value = read_document((self.file.parent / name).resolve() if name else self.file)
            for part in pointer.split("/")[1:]:
                value = value[part.replace("~1", "/").replace("~0", "~")]
        return value

    def example_answer(self) -> Any:
        """The example of a success, with its references."""
        content = self._description["responses"]["200"]["content"]["application/json"]
        if "examples" in content:
            return content["examples"]["response"]["value"]
        return self._resolve(content["schema"])["example"]

    def problems_of_request(self, uri: str, body: bytes | None) -> list[str]:
        """Of path, query and body."""
        found = list(self._problems_of_query(uri))
        written = self._description.get("requestBody")
        if written is None:
            return [*found, "there is a body, and none is specified"] if body is not None else found
        if body is None:
            return [*found, "there is no body"] if written.get("required", True) else found
        return found + problems(
            self.file,
            f"{self._pointer}/requestBody/content/application~1json/schema",
            msgspec.json.decode(body),
        )

    def _problems_of_query(self, uri: str) -> Iterator[str]:
        given = parse_qs(urlsplit(uri).query, keep_blank_values=True, strict_parsing="?" in uri)
        known = {one["name"]: one for one in self._parameters if one["in"] == "query"}
        for name in given:
            if name not in known:
                yield f"?{name} is not specified"
        for name, parameter in known.items():
            if name not in given:
                if parameter.get("required"):
                    yield f"?{name} is missing"
                continue
            schema = self._resolve(parameter["schema"])
            values: list[Any] = [_typed(value, schema) for value in given[name]]
            value = (
                [_typed(one, schema["items"]) for one in given[name]]
                if schema.get("type") == "array"
                else values[0]
            )
            if schema.get("type") != "array" and len(values) > 1:
                yield f"?{name} is there more than once"
            for error in Draft202012Validator(schema).iter_errors(value):
                yield f"?{name}: {error.message}"

    def problems_of_answer(self, status: int, headers: Mapping[str, str], body: bytes) -> list[str]:
        """Of status, content type and body."""
        content_type = headers.get("content-type", "").partition(";")[0]
        key = str(status)
        written = self._description["responses"].get(key)
        if written is None:
            if 200 <= status < 400:
                return [f"status {status} is not specified"]
            return self._problems_of_error(content_type, body)
        resolved = self._resolve(written)
        kinds = resolved.get("content", {})
        # A download's type is that of the upload.
        if kinds and content_type not in kinds and "application/octet-stream" not in kinds:
            return [f"{content_type!r} for {sorted(kinds)}"]
        found: list[str] = []
        if content_type == "application/json" and "schema" in kinds.get(content_type, {}):
            path, pointer = self._place(f"{self._pointer}/responses/{key}", written)
            pointer += "/content/application~1json/schema"
            found += problems(path, pointer, msgspec.json.decode(body))
        return found

    def _place(self, pointer: str, written: Any) -> tuple[Path, str]:
        """Where something is that may be a reference."""
        if "$ref" not in written:
            return self.file, pointer
        name, _, pointer = written["$ref"].partition("#")
        return ((self.file.parent / name).resolve() if name else self.file), pointer

    def _problems_of_error(self, content_type: str, body: bytes) -> list[str]:
        if content_type != "application/json":
            return [f"an error of {content_type!r}"]
        path = self.file.parents[1] / "client-server" / "definitions" / "errors" / "error.yaml"
        return problems(path, "", msgspec.json.decode(body))


class Specification:
    """Every operation of some APIs."""

    def __init__(self, folder: Path, apis: tuple[str, ...] = (SERVER_SERVER,)) -> None:
        self.folder = folder
        self._operations: dict[str, list[Operation]] = {
            api: [
                operation
                for path in sorted((folder / "api" / api).glob("*.yaml"))
                for operation in _operations(path)
            ]
            for api in apis
        }

    def operations(self, api: str = SERVER_SERVER) -> list[Operation]:
        """Those of one API."""
        return self._operations[api]

    def find(self, method: str, path: str) -> Operation | None:
        """The operation of a path, without its query."""
        fitting = [
            one
            for operations in self._operations.values()
            for one in operations
            if one.method == method and one.pattern.fullmatch(path)
        ]
        return max(fitting, key=lambda one: one.literals, default=None)


def _operations(path: Path) -> Iterator[Operation]:
    document = read_document(path)
    base = document["servers"][0].get("variables", {}).get("basePath", {}).get("default", "")
    for key, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                # One path has a space behind it, to tell it from its twin with another body.
                yield Operation(path, (base + key).strip(), key, method, methods[method])


def _typed(value: str, schema: Mapping[str, Any]) -> Any:
    """A value of a query as what its schema speaks of."""
    if schema.get("type") in ("integer", "number") and re.fullmatch(r"-?\d+", value):
        return int(value)
    if schema.get("type") == "boolean" and value in ("true", "false"):
        return value == "true"
    return value
