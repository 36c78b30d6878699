"""Each fuzz target, shortly: so that the targets themselves stay alive, and cheap bugs are found at once."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz import (
    acl,
    answers,
    canonical,
    device_keys,
    discovery,
    edus,
    event,
    ids,
    joins,
    keyring,
    multipart,
    oauth,
    openapi,
    policy,
    queries,
    signing,
    xmatrix,
)
from tests.fuzz.__main__ import targets
from tests.fuzz.harness import as_test

EXAMPLES = 60


class FuzzTargets(SynchronousTestCase):
    def test_acl(self) -> None:
        as_test(acl.STRATEGY, acl.target, EXAMPLES)()

    def test_answers(self) -> None:
        as_test(answers.STRATEGY, answers.target, EXAMPLES)()

    def test_canonical(self) -> None:
        as_test(canonical.STRATEGY, canonical.target, EXAMPLES)()

    def test_device_keys(self) -> None:
        as_test(device_keys.STRATEGY, device_keys.target, EXAMPLES)()

    def test_discovery(self) -> None:
        as_test(discovery.STRATEGY, discovery.target, EXAMPLES)()

    def test_edus(self) -> None:
        as_test(edus.STRATEGY, edus.target, EXAMPLES)()

    def test_event(self) -> None:
        as_test(event.STRATEGY, event.target, EXAMPLES)()

    def test_ids(self) -> None:
        as_test(ids.STRATEGY, ids.target, EXAMPLES)()

    def test_joins(self) -> None:
        as_test(joins.STRATEGY, joins.target, EXAMPLES)()

    def test_keyring(self) -> None:
        as_test(keyring.STRATEGY, keyring.target, EXAMPLES)()

    def test_multipart(self) -> None:
        as_test(multipart.STRATEGY, multipart.target, EXAMPLES)()

    def test_oauth(self) -> None:
        as_test(oauth.STRATEGY, oauth.target, EXAMPLES)()

    def test_openapi(self) -> None:
        as_test(openapi.STRATEGY, openapi.target, EXAMPLES)()

    def test_policy(self) -> None:
        as_test(policy.STRATEGY, policy.target, EXAMPLES)()

    def test_queries(self) -> None:
        as_test(queries.STRATEGY, queries.target, EXAMPLES)()

    def test_signing(self) -> None:
        as_test(signing.STRATEGY, signing.target, EXAMPLES)()

    def test_xmatrix(self) -> None:
        as_test(xmatrix.STRATEGY, xmatrix.target, EXAMPLES)()

    def test_every_target_is_here_and_in_make_fuzz(self) -> None:
        tested = {name.removeprefix("test_") for name in dir(self) if name.startswith("test_")}
        self.assertLessEqual(set(targets()), tested)
        self.assertIn("event", targets())
