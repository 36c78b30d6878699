"""docs/reference/openapi.json: our own description of every endpoint, drawn from the code that serves it.

Paths, parameters and who may ask come from the route table; query parameters and bodies from what the handlers read
(`request.int_arg("limit")`, `request.json(SomeBody)`), followed into the functions that they hand their request to; the
answers are those that the tests have had of the endpoint (docs/reference/exercised.tsv), and those that each endpoint of
its kind may give. `tests/conformance/test_openapi.py` holds the server to it with requests that nobody thought of.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from homeserver import __version__
from homeserver.http.errors import MatrixError
from homeserver.http.route import Auth, Route
from scripts.spec_coverage import exercised, normal_path

JsonSchema = dict[str, Any]

_REFERENCES = "#/components/schemas/{name}"
_DEEP_ENOUGH = 6
_SIMPLE: JsonSchema = {"type": "string", "minLength": 1}
_OPAQUE = r"[A-Za-z0-9._~-]{1,20}"
_HOST = r"[a-z0-9-]{1,10}\.example"
CONVERTERS: dict[str, JsonSchema] = {
    "str": _SIMPLE,
    "text": {"type": "string"},
    "int": {"type": "integer", "minimum": 0},
    "path": {"type": "string"},
    "room_id": {"type": "string", "pattern": f"^!{_OPAQUE}(:{_HOST})?$"},
    "user_id": {"type": "string", "pattern": f"^@{_OPAQUE}:{_HOST}$"},
    "member_id": {"type": "string", "pattern": f"^@{_OPAQUE}:{_HOST}$"},
    "event_id": {"type": "string", "pattern": f"^\\${_OPAQUE}$"},
    "room_alias": {"type": "string", "pattern": f"^#{_OPAQUE}:{_HOST}$"},
    "room_id_or_alias": {"type": "string", "pattern": f"^[!#]{_OPAQUE}:{_HOST}$"},
    "server_name": {"type": "string", "pattern": f"^{_HOST}$"},
    "device_id": _SIMPLE,
    "txn_id": _SIMPLE,
}
_ARGUMENTS: dict[str, JsonSchema] = {
    "arg": {"type": "string"},
    "required_arg": {"type": "string"},
    "int_arg": {"type": "integer"},
    "bool_arg": {"type": "boolean"},
}
_BEARER = (Auth.USER, Auth.GUEST_OK, Auth.ADMIN, Auth.APPSERVICE)
# The same endpoint may have a path for each time at which clients learnt of it.
_VERSION = re.compile(r"^/_matrix/(client|media)/(?:r0|v\d|unstable(?:/[a-z-]+(?:\.[a-z0-9_-]+)+)?)/")
# What any endpoint of a kind may answer, tried in a test of its own or not.
_OF_BODIES = (
    "400 M_BAD_JSON",
    "400 M_NOT_JSON",
    "400 M_INVALID_PARAM",
    "400 M_MISSING_PARAM",
    "413 M_TOO_LARGE",
)
_OF_ARGUMENTS = ("400 M_INVALID_PARAM", "400 M_MISSING_PARAM")
# Of what is asked of other servers: rooms, aliases, people and files may be theirs.
_OF_OTHERS = ("502 M_UNKNOWN", "504 M_NOT_YET_UPLOADED")
_OF_PEERS = ("401 M_UNAUTHORIZED", "403 M_FORBIDDEN")
_OF_TOKENS = ("401 M_MISSING_TOKEN", "401 M_UNKNOWN_TOKEN")
_OF_STANDING = {
    Auth.USER: ("403 M_GUEST_ACCESS_FORBIDDEN",),
    Auth.ADMIN: ("403 M_FORBIDDEN",),
    Auth.APPSERVICE: ("403 M_FORBIDDEN",),
}


@dataclass(slots=True)
class Read:
    """What a handler reads of its request."""

    arguments: dict[str, JsonSchema] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    bodies: list[Any] = field(default_factory=list)
    has_body: bool = False
    may_be_empty: bool = False


def reads(handler: Callable[..., Any]) -> Read:
    """What a handler, and whatever it gives its request to, looks at."""
    found = Read()
    _read(handler, found, set(), 0)
    return found


def _read(function: Callable[..., Any], found: Read, seen: set[Any], depth: int) -> None:
    plain = inspect.unwrap(getattr(function, "__func__", function))
    if plain in seen or depth > _DEEP_ENOUGH or not inspect.isfunction(plain):
        return
    seen.add(plain)
    tree = ast.parse(textwrap.dedent(inspect.getsource(plain))).body[0]
    closed_over = inspect.getclosurevars(plain).nonlocals
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if _is_request(node.func):
            assert isinstance(node.func, ast.Attribute)
            _note(node, node.func.attr, plain.__globals__, found)
        if any(isinstance(argument, ast.Name) and argument.id == "request" for argument in node.args):
            callee = _callee(node.func, function, {**plain.__globals__, **closed_over})
            if callee is not None:
                _read(callee, found, seen, depth + 1)


def _is_request(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "request"


def _callee(node: ast.expr, function: Any, names: dict[str, Any]) -> Any:
    """A function of the module, or a method of the same object or of one that it holds."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    if isinstance(node.value, ast.Name) and node.value.id == "self":
        return getattr(getattr(function, "__self__", None), node.attr, None)
    holder = _callee(node.value, function, names)
    return getattr(holder, node.attr, None)


def _note(call: ast.Call, method: str, names: dict[str, Any], found: Read) -> None:
    if method == "json":
        found.has_body = True
        found.may_be_empty |= any(word.arg == "allow_empty" for word in call.keywords)
        if call.args and isinstance(call.args[0], ast.Name):
            body = names.get(call.args[0].id)
            if isinstance(body, type) and issubclass(body, msgspec.Struct):
                found.bodies.append(body)
    elif method in _ARGUMENTS and call.args and isinstance(call.args[0], (ast.Constant, ast.Name)):
        name = call.args[0].value if isinstance(call.args[0], ast.Constant) else names.get(call.args[0].id)
        if isinstance(name, str):
            found.arguments[name] = _ARGUMENTS[method]
            if method == "required_arg":
                found.required.add(name)


def _parameters(route: Route, read: Read) -> Iterator[JsonSchema]:
    for part in route.segments():
        if not isinstance(part, str):
            name, converter = part
            yield {"name": name, "in": "path", "required": True, "schema": CONVERTERS[converter]}
    for name, schema in sorted(read.arguments.items()):
        yield {"name": name, "in": "query", "required": name in read.required, "schema": schema}


def _answers(route: Route, read: Read, seen: str) -> dict[str, JsonSchema]:
    """By status, with the error codes that go with it."""
    outcomes: set[str] = set()
    if route.auth in _BEARER:
        outcomes.update(_OF_TOKENS, _OF_STANDING.get(route.auth, ()))
    if route.auth is Auth.FEDERATION:
        outcomes.update(_OF_PEERS)
    elif read.arguments or "{" in route.template:
        outcomes.update(_OF_OTHERS)
    if route.limit:
        outcomes.add("429 M_LIMIT_EXCEEDED")
    if read.has_body or route.stream:
        outcomes.update(_OF_BODIES)
    if read.arguments or "{" in route.template:
        outcomes.update(_OF_ARGUMENTS)
    outcomes = {_as_told(route, one) for one in outcomes} | {one for one in seen.split(", ") if one}
    answers: dict[str, JsonSchema] = {}
    for status in sorted({one.partition(" ")[0] for one in outcomes}):
        codes = sorted(one.partition(" ")[2] for one in outcomes if one.partition(" ")[0] == status)
        # Without an error code: a success, or a step of user-interactive authentication.
        answers[status] = _error(codes) if all(codes) else {"description": "As the specification says."}
    return answers or {"200": {"description": "As the specification says."}}


def _as_told(route: Route, outcome: str) -> str:
    """A refusal in the words of the route: a page, for example, has no error code."""
    if route.refuse == MatrixError.to_response:
        return outcome
    status, _, errcode = outcome.partition(" ")
    return f"{route.refuse(MatrixError(int(status), errcode, '')).status} "


def _error(codes: Sequence[str]) -> JsonSchema:
    schema = {
        "type": "object",
        "required": ["errcode", "error"],
        "properties": {"errcode": {"enum": list(codes)}, "error": {"type": "string"}},
    }
    return {"description": ", ".join(codes), "content": {"application/json": {"schema": schema}}}


def _operation(route: Route, seen: str) -> tuple[JsonSchema, Read]:
    read = reads(route.handler)
    operation: JsonSchema = {
        "operationId": re.sub(r"\W+", "_", f"{route.method}{route.template}").strip("_"),
        "externalDocs": {"description": route.spec, "url": f"https://spec.matrix.org/v1.19/{route.spec}"},
        "parameters": list(_parameters(route, read)),
        "responses": _answers(route, read, seen),
    }
    if route.auth in _BEARER:
        operation["security"] = [{"accessToken": []}]
    if route.stream:
        operation["requestBody"] = {"content": {"application/octet-stream": {}}}
    elif read.has_body:
        schemas: list[JsonSchema] = [{"$ref": _REFERENCES.format(name=_name(body))} for body in read.bodies]
        schema = {"allOf": schemas} if len(schemas) > 1 else schemas[0] if schemas else {"type": "object"}
        content = {"application/json": {"schema": schema}}
        operation["requestBody"] = {"required": not read.may_be_empty, "content": content}
    return operation, read


def _name(body: Any) -> str:
    """Bodies of different modules may share a name."""
    return f"{body.__module__.rpartition('.')[2]}.{body.__name__.lstrip('_')}"


def _schemas(bodies: Sequence[Any]) -> dict[str, JsonSchema]:
    """Each body with what it holds written out inside of it."""
    schemas: dict[str, JsonSchema] = {}
    for body in bodies:
        name = _name(body)
        _, parts = msgspec.json.schema_components(
            (body,), ref_template=f"#/components/schemas/{name}/$defs/{{name}}"
        )
        own = parts.pop(body.__name__)
        schemas[name] = {**own, "$defs": parts} if parts else own
    return schemas


def _timeless(path: str) -> str:
    """A path without its version, and its parameters without their names."""
    return _VERSION.sub(r"/_matrix/\1/", normal_path(path))


def document(routes: Sequence[Route]) -> JsonSchema:
    """The whole description: OpenAPI 3.1."""
    seen: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for (method, path), outcomes in exercised().items():
        seen[method, _timeless(path)].append(outcomes)
    paths: dict[str, dict[str, JsonSchema]] = {}
    bodies: dict[str, Any] = {}
    for route in sorted(routes, key=lambda one: (one.template, one.method)):
        path = re.sub(r"\{(\w+)(?::\w+)?\}", r"{\1}", route.template)
        outcomes = ", ".join(seen[route.method, _timeless(path)])
        operation, read = _operation(route, outcomes)
        paths.setdefault(path, {})[route.method.lower()] = operation
        bodies.update({_name(body): body for body in read.bodies})
    return {
        "openapi": "3.1.0",
        "info": {"title": "CHAOS", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": _schemas([bodies[name] for name in sorted(bodies)]),
            "securitySchemes": {"accessToken": {"type": "http", "scheme": "bearer"}},
        },
    }


def page(routes: Sequence[Route]) -> str:
    """The document as it is stored: a line for each endpoint and each body, so that differences can be read."""
    whole = document(routes)
    parts = whole["components"]
    lines = [
        "{",
        f'"openapi": {json.dumps(whole["openapi"])},',
        f'"info": {json.dumps(whole["info"])},',
        '"paths": {',
        ",\n".join(_path_lines(whole["paths"])),
        "},",
        '"components": {',
        f'"securitySchemes": {json.dumps(parts["securitySchemes"])},',
        '"schemas": {',
        ",\n".join(f"{json.dumps(name)}: {json.dumps(schema)}" for name, schema in parts["schemas"].items()),
        "}}}",
    ]
    return "\n".join(lines) + "\n"


def _path_lines(paths: dict[str, dict[str, JsonSchema]]) -> Iterator[str]:
    for path, operations in paths.items():
        inner = ",\n ".join(f"{json.dumps(method)}: {json.dumps(one)}" for method, one in operations.items())
        yield f"{json.dumps(path)}: {{{inner}}}"
