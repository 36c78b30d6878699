"""X-Matrix: build, parse and verify the Authorization header of federation requests.

# spec: server-server-api#request-authentication
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from msgspec import Raw

from federation.canonical import encode, encode_checked
from federation.errors import Malformed
from federation.hashes import decode_base64, unpadded
from federation.ids import KeyId, ServerName, parse_server_name
from federation.signing import Signer, verify_bytes

MAX_HEADER_BYTES: Final = 4096
MAX_PARAMETERS: Final = 32
_SCHEME: Final = re.compile(r"X-Matrix +", re.IGNORECASE)
_NAME_CHARS: Final = r"!#$%&'*+\-.^_`|~0-9A-Za-z"
# One name=value of the list, with the comma or end after it. Unquoted values may hold colons (older servers).
_PARAMETER: Final = re.compile(
    rf"[ \t]*(?:([{_NAME_CHARS}]+)=(?:\"((?:[^\"\\]|\\.)*)\"|([{_NAME_CHARS}:]+)))?[ \t]*(?:,|\Z)"
)
_ESCAPED: Final = re.compile(r"\\(.)")
_NEEDS_ESCAPE: Final = re.compile(r"([\"\\])")


@dataclass(frozen=True, slots=True)
class XMatrix:
    """A parsed header. Nothing in it is proven before `verify`."""

    origin: ServerName
    destination: ServerName | None
    key_id: KeyId
    signature: bytes


def _refuse(message: str) -> Malformed:
    return Malformed(message, errcode="M_UNAUTHORIZED", status=401)


def parse(header: str) -> XMatrix:
    """Parse one Authorization header value. Malformed (401 M_UNAUTHORIZED) if it is not a whole X-Matrix."""
    if len(header) > MAX_HEADER_BYTES:
        raise _refuse("Authorization header is too long")
    scheme = _SCHEME.match(header)
    if scheme is None:
        raise _refuse("Authorization scheme must be X-Matrix")
    parameters = _parse_parameters(header, scheme.end())
    try:
        origin = parse_server_name(parameters["origin"])
        destination = parameters.get("destination")
        key_id = parameters["key"]
        # The specification's list of parameters calls it `signature`; its examples, and everybody, `sig`.
        signature = decode_base64(parameters["sig"] if "sig" in parameters else parameters["signature"])
        parsed_destination = None if destination is None else parse_server_name(destination)
    except KeyError as error:
        raise _refuse(f"Authorization header lacks {error.args[0]}") from None
    except Malformed:
        raise _refuse("Authorization header has an invalid value") from None
    if not key_id.startswith("ed25519:") or len(key_id) > 255:
        raise _refuse("Authorization key must be an Ed25519 key")
    return XMatrix(origin, parsed_destination, KeyId(key_id), signature)


def _parse_parameters(header: str, start: int) -> dict[str, str]:
    parameters: dict[str, str] = {}
    position = start
    for _ in range(MAX_PARAMETERS):
        match = _PARAMETER.match(header, position)
        if match is None:
            raise _refuse("Authorization header is malformed")
        name, quoted, bare = match.groups()
        if name is not None:
            value = bare if quoted is None else _ESCAPED.sub(r"\1", quoted) if "\\" in quoted else quoted
            name = name.lower()
            if name in parameters:
                raise _refuse(f"Authorization header repeats {name}")
            parameters[name] = value
        position = match.end()
        if position >= len(header):
            return parameters
    raise _refuse("Authorization header has too many parameters")


def signed_bytes(
    *, method: str, uri: str, origin: str, destination: str | None, content: Any = None, has_content: bool
) -> bytes:
    """The canonical JSON that a request signature covers. `content` is the parsed body, or canonical Raw bytes."""
    request: dict[str, Any] = {"method": method, "uri": uri, "origin": origin}
    if destination is not None:
        request["destination"] = destination
    if has_content:
        # Lenient: transactions may carry events of old rooms, which hold floats.
        request["content"] = content if type(content) is Raw else Raw(encode_checked(content, strict=False))
    return encode(request)


def build(
    signer: Signer, *, method: str, uri: str, destination: ServerName, canonical_body: bytes | None = None
) -> str:
    """The Authorization header of a request of ours. The body, if any, must be sent as these very bytes."""
    message = signed_bytes(
        method=method,
        uri=uri,
        origin=signer.server_name,
        destination=destination,
        content=None if canonical_body is None else Raw(canonical_body),
        has_content=canonical_body is not None,
    )
    parameters = (
        ("origin", signer.server_name),
        ("destination", destination),
        ("key", signer.key_id),
        ("sig", unpadded(signer.sign(message))),
    )
    return "X-Matrix " + ",".join(f'{name}="{_quote(value)}"' for name, value in parameters)


def _quote(value: str) -> str:
    return _NEEDS_ESCAPE.sub(r"\\\1", value)


def verify(
    header: XMatrix,
    *,
    server_name: ServerName,
    method: str,
    uri: str,
    content: Any = None,
    has_content: bool,
    keys: Mapping[KeyId, bytes],
) -> None:
    """Raise Malformed (401) unless the origin signed this request, for us, with one of its current keys.

    `server_name` is ours; `uri` is the target as received: path and query, undecoded.
    """
    if header.destination is not None and header.destination != server_name:
        raise _refuse("Request is signed for another destination")
    public_key = keys.get(header.key_id)
    if public_key is None:
        raise _refuse("Request is signed with an unknown key")
    try:
        message = signed_bytes(
            method=method,
            uri=uri,
            origin=header.origin,
            destination=header.destination,
            content=content,
            has_content=has_content,
        )
    except (Malformed, UnicodeEncodeError):
        raise _refuse("Request cannot be verified") from None
    if not verify_bytes(public_key, message, header.signature):
        raise _refuse("Request signature does not match")
