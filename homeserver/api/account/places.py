"""Where the pages of account management are."""

from __future__ import annotations

from typing import Final

from homeserver.api.account.page import back
from homeserver.oauth.metadata import ACCOUNT

START: Final = ACCOUNT
PROFILE: Final = f"{ACCOUNT}profile"
DEVICES: Final = f"{ACCOUNT}devices"
DEVICE: Final = f"{ACCOUNT}device"
DEVICE_SIGN_OUT: Final = f"{ACCOUNT}device/sign_out"
PASSWORD: Final = f"{ACCOUNT}password"
FORGOTTEN: Final = f"{ACCOUNT}forgotten"
ADDRESSES: Final = f"{ACCOUNT}addresses"
RESET: Final = f"{ACCOUNT}encryption"
DEACTIVATE: Final = f"{ACCOUNT}deactivate"

SPEC: Final = "client-server-api#oauth-20-account-management"
BACK_HTML: Final = back(START, "Your account")
