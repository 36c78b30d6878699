"""Policy servers: who checks the events of a room, and whether they approved one.

A missing approval never touches authorisation: it soft-fails what others sent, and keeps ours from being sent.

# spec: server-server-api#policy-servers
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from federation.errors import Malformed
from federation.event import Event
from federation.hashes import decode_base64, redacted_bytes, unpadded
from federation.ids import KeyId, ServerName, parse_server_name
from federation.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, verify_bytes
from federation.verdict import ACCEPT, SoftFail, Verdict

POLICY_EVENT_TYPE: Final = "m.room.policy"
POLICY_KEY_ID: Final = KeyId("ed25519:policy_server")


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """A usable m.room.policy event with an empty state key."""

    server_name: ServerName
    public_key: bytes
    """Empty when the room names a string that is no key: the server is asked, and nothing it signs is valid."""


def parse_policy(content: dict[str, Any]) -> PolicyServer | None:
    """None when the content does not enable a policy server; whether that has users in the room is another question.

    # spec: server-server-api#determining-if-a-policy-server-is-enabled-in-a-room
    """
    via = content.get("via")
    public_keys = content.get("public_keys")
    if type(via) is not str or type(public_keys) is not dict or type(public_keys.get("ed25519")) is not str:
        return None
    try:
        server_name = parse_server_name(via)
    except Malformed:
        # Nobody can be joined from such a server, which is a condition too.
        return None
    try:
        public_key = decode_base64(public_keys["ed25519"])
    except Malformed:
        public_key = b""
    return PolicyServer(server_name, public_key if len(public_key) == PUBLIC_KEY_BYTES else b"")


def is_exempt(event: Event) -> bool:
    """The event that configures the policy server is never put before it."""
    return event.type == POLICY_EVENT_TYPE and event.state_key == ""


def has_valid_signature(event: Event, policy: PolicyServer) -> bool:
    """Whether the event carries the approval of this policy server."""
    by_key = event.json.get("signatures", {}).get(policy.server_name)
    encoded = by_key.get(POLICY_KEY_ID) if type(by_key) is dict else None
    if type(encoded) is not str:
        return False
    try:
        signature = decode_base64(encoded)
    except Malformed:
        return False
    return verify_bytes(policy.public_key, redacted_bytes(event.json, event.rules), signature)


def check(event: Event, policy: PolicyServer | None) -> Verdict:
    """The seventh check on receipt of a PDU. # spec: server-server-api#checks-performed-on-receipt-of-a-pdu"""
    if policy is None or is_exempt(event) or has_valid_signature(event, policy):
        return ACCEPT
    return SoftFail(f"no valid signature of the policy server {policy.server_name}", final=True)


def parse_sign_response(response: Any, policy: PolicyServer) -> dict[str, dict[str, str]]:
    """The one signature that we asked for, fit for `signing.with_signatures`. Anything else is left out.

    # spec: server-server-api#post_matrixpolicyv1sign
    """
    by_key = response.get(policy.server_name) if type(response) is dict else None
    encoded = by_key.get(POLICY_KEY_ID) if type(by_key) is dict else None
    signature = decode_base64(encoded) if type(encoded) is str else b""
    if len(signature) != SIGNATURE_BYTES:
        raise Malformed("The policy server answered without a signature")
    # Written anew: the same bytes have other texts, and one of them may fill an event.
    return {policy.server_name: {POLICY_KEY_ID: unpadded(signature)}}
