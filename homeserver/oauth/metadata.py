"""What apps are told of this authorization server. spec: client-server-api#server-metadata-discovery, RFC 8414"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from homeserver.oauth.id_tokens import ALGORITHM
from homeserver.oauth.types import GRANT_TYPES

AUTHORIZE: Final = "/oauth2/authorize"
TOKEN: Final = "/oauth2/token"  # noqa: S105 (a path)
REVOKE: Final = "/oauth2/revoke"
REGISTER: Final = "/oauth2/register"
DEVICE: Final = "/oauth2/device"
KEYS: Final = "/oauth2/keys.json"
LINK: Final = "/oauth2/link"
ACCOUNT: Final = "/account/"

PROFILE: Final = "org.matrix.profile"
DEVICES: Final = "org.matrix.devices_list"
DEVICE_VIEW: Final = "org.matrix.device_view"
DEVICE_DELETE: Final = "org.matrix.device_delete"
DEACTIVATE: Final = "org.matrix.account_deactivate"
RESET: Final = "org.matrix.cross_signing_reset"
# COMPAT(apps that know the names of before the specification: Element Web up to 1.12, Element X): the same pages.
OLD_ACTIONS: Final = {
    "org.matrix.sessions_list": DEVICES,
    "org.matrix.session_view": DEVICE_VIEW,
    "org.matrix.session_end": DEVICE_DELETE,
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is. ``base``: the server's address, without a slash at the end."""

    base: str

    @property
    def issuer(self) -> str:
        return f"{self.base}/"

    @property
    def link(self) -> str:
        return self.base + LINK

    @property
    def account(self) -> str:
        return self.base + ACCOUNT

    @property
    def resets(self) -> str:
        """Where people allow that their cross-signing keys are replaced."""
        return f"{self.account}?action={RESET}"

    def metadata(self, *, may_sign_up: bool, with_old_names: bool) -> dict[str, Any]:
        """The whole of it."""
        actions = [PROFILE, DEVICES, DEVICE_VIEW, DEVICE_DELETE, DEACTIVATE, RESET]
        actions += OLD_ACTIONS if with_old_names else ()
        return {
            "issuer": self.issuer,
            "authorization_endpoint": self.base + AUTHORIZE,
            "token_endpoint": self.base + TOKEN,
            "revocation_endpoint": self.base + REVOKE,
            "registration_endpoint": self.base + REGISTER,
            "device_authorization_endpoint": self.base + DEVICE,
            "jwks_uri": self.base + KEYS,
            "response_types_supported": ["code"],
            "response_modes_supported": ["query", "fragment"],
            "grant_types_supported": list(GRANT_TYPES),
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
            "prompt_values_supported": ["create"] if may_sign_up else [],
            "authorization_response_iss_parameter_supported": True,
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "scopes_supported": ["openid", "urn:matrix:client:api:*"],
            "account_management_uri": self.account,
            "account_management_actions_supported": actions,
        }
