"""The pages on which people let apps in and look after their account, over the domains."""

from __future__ import annotations

from homeserver.api.account.addresses import AddressesApi
from homeserver.api.account.authorize import AuthorizeApi
from homeserver.api.account.deactivate import DeactivateApi
from homeserver.api.account.devices import AccountDevicesApi
from homeserver.api.account.forgotten import ForgottenApi
from homeserver.api.account.gate import Gate
from homeserver.api.account.link import LinkApi
from homeserver.api.account.new_password import NewPassword
from homeserver.api.account.overview import OverviewApi
from homeserver.api.account.page import Pages
from homeserver.api.account.password import PasswordApi
from homeserver.api.account.proof import Proofs
from homeserver.api.account.reset import ResetApi
from homeserver.api.account.sign_in import SignIn
from homeserver.api.account.sign_up import SignUp
from homeserver.api.account.visitors import Visitors
from homeserver.composition.core import Core
from homeserver.composition.services import Services
from homeserver.http.route import HasRoutes


def build_pages(core: Core, services: Services) -> list[HasRoutes]:
    """All of them."""
    around, authorizing, accounts = core.around, services.authorizing, services.accounts
    limiter, identity = services.limiter, services.identity
    validations, threepids = services.people.validations, services.people.threepids
    with_mail = validations.possible
    pages, grants = Pages(core.config.server_name), authorizing.grants
    visitors = Visitors(authorizing.places.base, authorizing.browsers, around.clock)
    new_password = NewPassword(lambda: services.settings.config.passwords)
    sign_in = SignIn(pages, visitors, identity, limiter, with_mail=with_mail)
    sign_up = SignUp(
        pages, visitors, services.registrar, accounts, identity, limiter, new_password, around.clock
    )
    gate, proofs = Gate(pages, visitors, sign_in, sign_up), Proofs(identity, limiter)
    by_mail: list[HasRoutes] = [
        AddressesApi(pages, gate, proofs, validations, threepids),
        ForgottenApi(pages, visitors, accounts, validations, new_password, limiter),
    ]
    return [
        AuthorizeApi(pages, gate, visitors, authorizing.requests, grants),
        LinkApi(pages, gate, grants, limiter),
        OverviewApi(pages, gate, visitors, services.profiles, with_mail=with_mail),
        AccountDevicesApi(pages, gate, services.devices, authorizing.clients, around.clock),
        PasswordApi(pages, gate, visitors, proofs, accounts, new_password),
        ResetApi(pages, gate, proofs, authorizing.resets),
        DeactivateApi(pages, gate, visitors, proofs, accounts, threepids),
        *(by_mail if with_mail else []),
    ]
