"""Two real servers that speak over TLS, as `chaos serve` runs them."""

from __future__ import annotations

import json
import ssl
import subprocess
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.api.test_command_line import ProcessCase
from tests.interop.authority import Authority, Wire


class TwoServers(ProcessCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority(self.folder / "authority")

    def configure(self, name: str, wire: Wire, **changes: Any) -> list[str]:
        folder = self.folder / name
        folder.mkdir()
        files = {
            "certificate_file": str(wire.certificate_file),
            "private_key_file": str(wire.private_key_file),
        }
        config = {
            "server_name": wire.server_name,
            "data_dir": str(folder / "data"),
            "registration": {"mode": "open"},
            "outbound": {"allow_private_ranges": ["127.0.0.0/8"], "ca_file": str(wire.ca_file)},
            "listeners": [
                {"port": 0, "serve": ["client"]},
                {"port": wire.port, "bind": wire.address, "serve": ["federation"], "tls": files},
            ],
            **changes,
        }
        (folder / "chaos.yaml").write_text(json.dumps(config))
        return ["--config", str(folder / "chaos.yaml")]

    def begin(self, name: str, wire: Wire, **changes: Any) -> tuple[subprocess.Popen[str], int]:
        """A server that answers, and its port for clients."""
        process = self.start("serve", *self.configure(name, wire, **changes))
        assert process.stdout is not None
        line = process.stdout.readline()
        self.assertTrue(line.startswith("listening on http://localhost:"), line)
        return process, int(line.split(":")[2].split()[0])

    def json(
        self, method: str, url: str, body: Any = None, token: str | None = None, context: Any = None
    ) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = Request(url, data, headers, method=method)
        try:
            with urlopen(request, timeout=60, context=context) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)

    def register(self, port: int, name: str) -> tuple[str, str]:
        url = f"http://127.0.0.1:{port}/_matrix/client/v3/register"
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        status, answer = self.json("POST", url, body)
        self.assertEqual(status, 200, answer)
        return answer["user_id"], answer["access_token"]

    def profile(self, port: int, user_id: str, token: str) -> tuple[int, Any]:
        return self.json("GET", f"http://127.0.0.1:{port}/_matrix/client/v3/profile/{user_id}", token=token)

    def test_a_question_and_its_answer(self) -> None:
        one, two = self.authority.issue("127.0.0.71"), self.authority.issue("127.0.0.72")
        first, first_port = self.begin("one", one)
        second, second_port = self.begin("two", two)
        _, token = self.register(first_port, "alice")
        bob, bobs_token = self.register(second_port, "bob")
        url = f"http://127.0.0.1:{second_port}/_matrix/client/v3/profile/{bob}/displayname"
        self.assertEqual(self.json("PUT", url, {"displayname": "Bob"}, bobs_token)[0], 200)
        self.assertEqual(self.profile(first_port, bob, token), (200, {"displayname": "Bob"}))
        # One that is not there, and one whose name is none.
        self.assertEqual(self.profile(first_port, "@bob:127.0.0.73:1", token)[0], 502)
        self.assertEqual(self.profile(first_port, "@bob:nowhere.invalid", token)[0], 502)
        for process in (first, second):
            self.end(process)

    def test_private_addresses_are_refused_unless_they_are_allowed(self) -> None:
        one, two = self.authority.issue("127.0.0.74"), self.authority.issue("127.0.0.75")
        first, first_port = self.begin("one", one, outbound={"ca_file": str(one.ca_file)})
        second, second_port = self.begin("two", two)
        _, token = self.register(first_port, "alice")
        bob, _ = self.register(second_port, "bob")
        self.assertEqual(self.profile(first_port, bob, token)[0], 502)
        for process in (first, second):
            self.end(process)

    def test_keys_of_the_past_are_published(self) -> None:
        wire = self.authority.issue("127.0.0.76")
        process, _ = self.begin("one", wire)
        context = ssl.create_default_context(cafile=str(wire.ca_file))
        url = f"https://{wire.server_name}/_matrix/key/v2/server"
        _, before = self.json("GET", url, context=context)
        self.end(process)
        key_file = Path(self.folder / "one" / "data" / "signing.key")
        old = f"ed25519 gone 1600000000000 {'A' * 43}\n"
        key_file.write_text(key_file.read_text() + old)
        process = self.start("serve", "--config", str(self.folder / "one" / "chaos.yaml"))
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        _, after = self.json("GET", url, context=context)
        self.assertEqual(after["verify_keys"], before["verify_keys"])
        self.assertEqual(after["old_verify_keys"]["ed25519:gone"]["expired_ts"], 1_600_000_000_000)
        self.end(process)

    def test_an_unusable_authority_is_told_in_one_line(self) -> None:
        wire = self.authority.issue("127.0.0.77")
        wire.ca_file.write_text("nonsense")
        _, err = self.run_chaos("serve", *self.configure("one", wire), status=2)
        self.assertIn("outbound.ca_file", err)
