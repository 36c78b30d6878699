"""Signatures of requests to S3 and whatever understands it (AWS Signature Version 4), over the whole body. Pure.

The path is signed as it travels, percent-encoded once (S3 differs from the other services of AWS in that).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final
from urllib.parse import quote

ALGORITHM: Final = "AWS4-HMAC-SHA256"
EMPTY_SHA256: Final = sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks. The secret is never part of anything that is printed."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str
    service: str = "s3"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as far as the signature is concerned. Header names in lower case."""

    method: str
    path: str
    """Percent-encoded."""
    query: str
    """As `encode_query` gives it."""
    headers: Mapping[str, str]
    payload_sha256: str


def encode_query(parameters: Mapping[str, str]) -> str:
    """A query string in the form that is signed: sorted, and all but letters, digits and ``-_.~`` encoded."""
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parameters.items()
    )
    return "&".join(f"{name}={value}" for name, value in pairs)


def sign(asked: Asked, credentials: Credentials, now_ms: int) -> dict[str, str]:
    """The headers to send beside those that were given: date, hash of the body, and the signature over them all."""
    moment = datetime.fromtimestamp(now_ms // 1000, tz=UTC).strftime("%Y%m%dT%H%M%SZ")
    added = {"x-amz-content-sha256": asked.payload_sha256, "x-amz-date": moment}
    headers = {**asked.headers, **added}
    names = ";".join(sorted(headers))
    canonical = "\n".join(
        [
            asked.method,
            asked.path,
            asked.query,
            *(f"{name}:{headers[name].strip()}" for name in sorted(headers)),
            "",
            names,
            asked.payload_sha256,
        ]
    )
    scope = f"{moment[:8]}/{credentials.region}/{credentials.service}/aws4_request"
    text = "\n".join([ALGORITHM, moment, scope, sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{credentials.secret_access_key}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    authorization = (
        f"{ALGORITHM} Credential={credentials.access_key_id}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return {**added, "authorization": authorization}
