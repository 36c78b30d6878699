"""The loader: good files, every kind of bad file, the environment, hostile input."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from homeserver.config.load import MAX_FILE_BYTES, ConfigError, build_config, load_config, parse_config
from homeserver.config.schema import Config, Contact, RateLimit, Support

FOLDER = Path("/srv/chaos")

# The contract's example, whole.
CONTRACT = b"""
server_name: chat.example.org          # never changes
public_url: https://chat.example.org
data_dir: ./data
database: sqlite
redis: null
signing_key_file: null
listeners:
  - {bind: 127.0.0.1, port: 8008, serve: [client, federation, web, health]}
  - {bind: 0.0.0.0, port: 8448, serve: [federation, client], tls: {certificate_file: a.crt, private_key_file: a.key}}
  - {bind: 127.0.0.1, port: 9090, serve: [metrics]}
registration: {mode: closed, guests: false, shared_secret: null}
outbound:
  allow_private_ranges: []
  ca_file: null
federation:
  enabled: true
  verify_certificates: true
  allow_servers: null
  deny_servers: []
  trusted_key_servers: [matrix.org]
  retry_min_s: 10
  retry_max_s: 3600
public_rooms: {without_auth: false, over_federation: true}
rate_limits: {enabled: true}
presence: {enabled: true}
url_previews: {enabled: true}
appservices: []
email: null
turn: {uris: [], shared_secret: null, lifetime_s: 86400}
"""


def parse(text: str | bytes, **environment: str) -> Config:
    raw = text.encode() if isinstance(text, str) else text
    return parse_config(raw, environment, folder=FOLDER)


def minimal(extra: str = "") -> str:
    return f"server_name: chat.example.org\n{extra}"


class LoadTests(SynchronousTestCase):
    def assert_problems(self, text: str | bytes, *expected: str, **environment: str) -> None:
        with self.assertRaises(ConfigError) as caught:
            parse(text, **environment)
        self.assertEqual(caught.exception.problems, list(expected))

    def test_the_contract_is_understood_and_equals_the_defaults(self) -> None:
        config = parse(CONTRACT)
        self.assertEqual([listener.port for listener in config.listeners], [8008, 8448, 9090])
        tls = config.listeners[1].tls
        assert tls is not None
        self.assertEqual(tls.certificate_file, FOLDER / "a.crt")
        self.assertEqual(config.listeners[2].serve, ("metrics",))
        default = parse(minimal())
        for name in (
            "registration",
            "outbound",
            "federation",
            "public_rooms",
            "rate_limits",
            "presence",
            "turn",
        ):
            self.assertEqual(getattr(config, name), getattr(default, name), name)
        self.assertEqual(config.listeners[0], default.listeners[0])

    def test_derived_values(self) -> None:
        config = parse(minimal())
        self.assertEqual(config.base_url, "https://chat.example.org")
        self.assertEqual(config.parsed_server_name, "chat.example.org")
        self.assertEqual(config.signing_key_path, FOLDER / "data" / "signing.key")
        self.assertEqual(config.database_url, "sqlite:////srv/chaos/data/chaos.sqlite3")
        other = parse(
            minimal("public_url: http://a.b/\nsigning_key_file: /k\ndatabase: postgresql://u:p@h/d\n")
        )
        self.assertEqual(other.base_url, "http://a.b")
        self.assertEqual(other.signing_key_path, Path("/k"))
        self.assertEqual(other.database_url, "postgresql://u:p@h/d")

    def test_unknown_keys_suggest_the_nearest(self) -> None:
        self.assert_problems(
            minimal(
                "listeners:\n  - {prot: 1, port: 8008}\nregistraton: {}\nfederation: {retry_min: 3}\nzzzz: 1\n"
            ),
            "registraton: unknown key, did you mean registration?",
            "zzzz: unknown key",
            "listeners[0].prot: unknown key, did you mean port?",
            "federation.retry_min: unknown key, did you mean retry_min_s?",
        )

    def test_all_problems_come_at_once(self) -> None:
        self.assert_problems(
            "server_name: 'bad name'\nlisteners: [{port: 70000}, {port: x}, {bind: a}]\npresence: {enabled: 'yes'}\n"
            "default_room_version: 12\nregistration: {mode: opne}\ncaches: 5\nappservices: nothing\n",
            "server_name: 'bad name' is not a server name like chat.example.org or 10.0.0.1:8448",
            "default_room_version: expected text in quotes, not a number '12'",
            "listeners[0].port: 70000 is out of range, expected 0 to 65535",
            "listeners[1].port: expected a whole number, not text 'x'",
            "listeners[2].port: required",
            "registration.mode: 'opne' is none of closed, token, open, did you mean open?",
            "presence.enabled: expected true or false, not text 'yes'",
            "caches: expected keys and values, not a number",
            "appservices: expected a list, not text 'nothing'",
        )

    def test_a_bind_address_is_one_or_a_name(self) -> None:
        for bind in ("127.0.0.1", "0.0.0.0", "::", "::1", "fe80::1%eth0", "localhost", "chat-1.example.org"):
            self.assertEqual(
                parse(minimal(f"listeners: [{{port: 1, bind: '{bind}'}}]\n")).listeners[0].bind, bind
            )
        for bind in ("1.2.3.4:80", "localhost:80", "[::1]", "1.2.3", "256.1.1.1", "::x", "eth0%1"):
            self.assert_problems(
                minimal(f"listeners: [{{port: 1, bind: '{bind}'}}]\n"),
                "listeners[0].bind: must be an address like 127.0.0.1, 0.0.0.0 or ::, without a port",
            )

    def test_numbers_and_booleans_are_not_mixed_up(self) -> None:
        self.assert_problems(
            minimal("media: {max_upload_bytes: true}\nfederation: {retry_min_s: .nan, retry_max_s: .inf}\n"),
            "federation.retry_min_s: nan is out of range, expected 0.1 to 86400",
            "federation.retry_max_s: inf is out of range, expected 1 to 604800",
            "media.max_upload_bytes: expected a whole number, not true or false 'True'",
        )

    def test_keys_left_out_of_a_rate_limit_keep_their_own_default(self) -> None:
        config = parse(minimal("rate_limits: {login: {burst: 3}, send: {per_second: 7}}\n"))
        self.assertEqual(config.rate_limits.login, RateLimit(0.2, 3))
        self.assertEqual(config.rate_limits.send, RateLimit(7.0, 100))
        classes = config.rate_limits.classes()
        self.assertEqual(classes["login"], RateLimit(0.2, 3))
        self.assertEqual(sorted({"login", "register", "send", "read", "write"} - classes.keys()), [])
        self.assertNotIn("enabled", classes)

    def test_networks(self) -> None:
        config = parse(minimal("outbound: {allow_private_ranges: [10.0.0.0/8, 'fd00::/8', 127.0.0.1]}\n"))
        expected = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.1/32"))
        self.assertEqual(config.outbound.allow_private_ranges, expected)
        self.assert_problems(
            minimal("outbound: {allow_private_ranges: [10.0.0.1/8, x, 5]}\n"),
            "outbound.allow_private_ranges[0]: '10.0.0.1/8' has host bits set",
            "outbound.allow_private_ranges[1]: 'x' is not a range like 10.0.0.0/8",
            "outbound.allow_private_ranges[2]: expected a range like 10.0.0.0/8, not a number",
        )

    def test_keys_that_contradict_each_other(self) -> None:
        self.assert_problems(
            minimal(
                "listeners: [{port: 1}, {port: 1}, {port: 2, serve: []}]\n"
                "federation: {retry_min_s: 50, retry_max_s: 20}\nturn: {uris: ['turn:a']}\n"
            ),
            "listeners[1]: 127.0.0.1:1 is taken by listeners[0]",
            "listeners[2].serve: at least one of client, federation, web, health, metrics",
            "federation.retry_min_s: must not be larger than federation.retry_max_s",
            "turn.shared_secret: required where turn.uris are given",
        )
        self.assert_problems(minimal("listeners: []\n"), "listeners: at least one is needed")
        self.assertEqual(len(parse(minimal("listeners: [{port: 0}, {port: 0}]\n")).listeners), 2)

    def test_room_versions_that_nobody_knows(self) -> None:
        known = ", ".join(map(str, range(1, 13)))
        for version in ("99", "", "12 "):
            self.assert_problems(
                minimal(f'default_room_version: "{version}"\n'),
                f"default_room_version: {version!r} is none of {known}",
            )

    def test_home_folders(self) -> None:
        self.assertEqual(Path.home() / "x", parse(minimal("data_dir: ~/x\n")).data_dir)
        nobody = "~nobody-of-this-name"
        self.assert_problems(
            minimal(f"data_dir: {nobody}/x\nappservices: ['{nobody}', \"~\\uD800/x\"]\n"),
            f"data_dir: the home folder in '{nobody}/x' is not known",
            f"appservices[0]: the home folder in '{nobody}' is not known",
            "appservices[1]: the home folder in '~\\ud800/x' is not known",
        )

    def test_secrets_stay_out_of_messages_and_representations(self) -> None:
        for text in (
            "database: postgres://me:hunter2@h/d\n",
            "database: postgresql://me:hunter2@h\n",
            "database: postgresql://me:hunter2@h:port/d\n",
            "redis: http://hunter2\n",
            "registration: {shared_secret: [hunter2]}\n",
            "email: {smtp_host: a, from: b@c.d, password: {hunter2: 1}}\n",
        ):
            with self.assertRaises(ConfigError) as caught:
                parse(minimal(text))
            self.assertEqual(len(caught.exception.problems), 1, text)
            self.assertNotIn("hunter2", str(caught.exception))
        config = parse(
            minimal("database: postgresql://me:hunter2@h/d\nregistration: {shared_secret: hunter2}\n")
        )
        self.assertNotIn("hunter2", repr(config))

    def test_support(self) -> None:
        text = (
            "support: {contacts: [{matrix_id: '@a:b.c'}, {role: com.example.press, email_address: a@b.c}],"
            " support_page: 'https://b.c/help?x=1'}\n"
        )
        support = parse(minimal(text)).support
        self.assertEqual(
            support.contacts, (Contact("m.role.admin", "@a:b.c"), Contact("com.example.press", None, "a@b.c"))
        )
        self.assertEqual(support.support_page, "https://b.c/help?x=1")
        self.assertEqual(parse(minimal()).support, Support())
        for bad, problem in (
            ("contacts: [{role: m.role.admin}]", "contacts[0]: matrix_id or email_address is required"),
            ("contacts: [{matrix_id: bob}]", "contacts[0].matrix_id: 'bob' is not a user"),
            ("contacts: [{email_address: bob}]", "contacts[0].email_address: must be an address"),
            ("contacts: [{role: Boss, email_address: a@b.c}]", "contacts[0].role: must be a name"),
            ("support_page: 'javascript:x'", "support_page: must be a URL"),
        ):
            error = self.assertRaises(ConfigError, parse, minimal(f"support: {{{bad}}}\n"))
            self.assertIn(f"support.{problem}", str(error))

    def test_what_clients_are_told_is_any_json(self) -> None:
        text = 'client_well_known: {io.element.e2ee: {default: false}, m.x: [1, 2.5, null, "a"]}'
        expected = {"io.element.e2ee": {"default": False}, "m.x": [1, 2.5, None, "a"]}
        self.assertEqual(expected, parse(minimal(text)).client_well_known)
        self.assertEqual({}, parse(minimal("client_well_known: null")).client_well_known)
        no_json = "must hold only texts, numbers, true, false, null, lists and mappings with texts as keys"
        for value, problem in (
            ("[1]", "expected keys and values, not a list"),
            ("{m.homeserver: {base_url: x}}", "must not have m.homeserver: it is made of public_url"),
            ("{a: 2026-01-01}", no_json),
            ("{1: a}", no_json),
            ("{a: .nan}", no_json),
            ('{a: "\\uD800"}', no_json),
            (f"{{a: {'b' * 65_536}}}", "must not be larger than 65536 bytes"),
        ):
            with self.assertRaises(ConfigError) as raised:
                parse(minimal(f"client_well_known: {value}"))
            self.assertEqual([f"client_well_known: {problem}"], raised.exception.problems, value)

    def test_email_uses_the_key_from(self) -> None:
        email = parse(minimal("email: {smtp_host: mail, from: chaos@example.org}\n")).email
        assert email is not None
        self.assertEqual((email.sender, email.smtp_port), ("chaos@example.org", 587))
        self.assert_problems(
            minimal("email: {sender: a}\n"),
            "email.sender: unknown key",
            "email.smtp_host: required",
            "email.from: required",
        )


class EnvironmentTests(SynchronousTestCase):
    def test_the_environment_wins_and_counts_as_given(self) -> None:
        config = parse(
            minimal("redis: redis://h:1/0\n"),
            CHAOS_DATABASE="postgresql://u@h/d",
            CHAOS_REDIS="",
            CHAOS_DATA_DIR="/elsewhere",
            CHAOS_DEFAULT_ROOM_VERSION="11",
            CHAOS_LISTENERS="ignored: not a scalar",
            CHAOS_TEST_POSTGRES="not ours",
        )
        self.assertEqual(config.database, "postgresql://u@h/d")
        self.assertIsNone(config.redis)
        self.assertEqual(config.data_dir, Path("/elsewhere"))
        self.assertEqual(config.default_room_version, "11")
        self.assertEqual(parse("", CHAOS_SERVER_NAME="a.b").server_name, "a.b")

    def test_a_relative_folder_in_a_variable_starts_from_the_working_folder(self) -> None:
        self.assertEqual(parse(minimal(), CHAOS_DATA_DIR="x").data_dir, Path.cwd() / "x")

    def test_bad_values_are_problems_like_any_other(self) -> None:
        with self.assertRaises(ConfigError) as caught:
            parse(minimal(), CHAOS_DATABASE="mysql", CHAOS_SERVER_NAME="", CHAOS_PUBLIC_URL="ftp://x")
        self.assertEqual(
            caught.exception.problems,
            [
                "server_name: expected text, not nothing",
                "public_url: must be a URL like https://chat.example.org",
                "database: must be sqlite or postgresql://user:password@host/database",
            ],
        )


class HostileFileTests(SynchronousTestCase):
    def assert_refused(self, raw: bytes, fragment: str) -> None:
        with self.assertRaises(ConfigError) as caught:
            parse_config(raw, {}, folder=FOLDER)
        self.assertEqual(len(caught.exception.problems), 1)
        self.assertIn(fragment, caught.exception.problems[0])
        self.assertLess(len(caught.exception.problems[0]), 400)

    def test_files_that_are_not_plain_yaml(self) -> None:
        self.assert_refused(b"a: [1", "chaos.yaml:1:")
        self.assert_refused(b"\xff\xfe\x00", "chaos.yaml")
        self.assert_refused(b"- 1", "expected keys and values, not a list")
        self.assert_refused(b"a: &x [1]\nb: *x", "aliases are not supported")
        self.assert_refused(b'server_name: "\\UFFFFFFFF"', "chaos.yaml")
        self.assert_refused(b"server_name: a.b\nserver_name: c.d", "appears twice")
        self.assert_refused(b"[" * 100_000, "nested too deeply")
        self.assert_refused(b"{" * 100_000, "nested too deeply")
        self.assert_refused(b"a: " + b"9" * 10_000, "chaos.yaml")
        self.assert_refused(b"#" * (MAX_FILE_BYTES + 1), "larger than")

    def test_tags(self) -> None:
        for value in (
            b"!!python/name:os.system",
            b"!!python/object:os.system x",
            b"!!binary aGk=",
            b"!!set {a}",
            b"!!timestamp x",
            b"!!int abc",
            b"!!bool abc",
            b"!!map [a]",
            b"!!str a.b",
            b"!foo a.b",
            b"{a: !<x> b}",
        ):
            self.assert_refused(b"server_name: " + value, ": tags are not supported")
        self.assert_refused(b"!!map {server_name: a.b}", "chaos.yaml:1:1: tags are not supported")
        self.assert_refused(b"!!str server_name: a.b", "chaos.yaml:1:1: tags are not supported")

    def test_numbers_of_a_million_digits(self) -> None:
        huge = b"0x" + b"f" * 100_000
        for raw in (
            b"server_name: " + huge,
            b"server_name: a.b\n? " + huge + b"\n: 1",
            b"server_name: a.b\nmedia: {max_upload_bytes: " + huge + b"}",
            b"server_name: a.b\nfederation: {retry_min_s: -" + huge + b"}",
            b"server_name: a.b\ndefault_room_version: " + huge,
        ):
            self.assert_refused(raw, "a huge number")

    def test_a_missing_file_and_a_folder(self) -> None:
        for path in (Path(self.mktemp()), Path()):
            with self.assertRaises(ConfigError) as caught:
                load_config(path, {})
            self.assertEqual(len(caught.exception.problems), 1)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["server_name", "listeners", "port", "serve", "tls", "federation", "email", "from"]
                    )
                    | st.text(max_size=5)
                    | st.integers(),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        )
    )
    @settings(max_examples=150, deadline=None)
    def test_any_document_is_a_config_or_a_list_of_problems(self, document: object) -> None:
        for wrapped in (
            {"server_name": "a.b", "listeners": document},
            {"email": document, "federation": document},
        ):
            try:
                config = build_config(wrapped, {}, folder=FOLDER)
            except ConfigError as error:
                self.assertTrue(error.problems)
                self.assertTrue(all("\n" not in problem for problem in error.problems), error.problems)
            else:
                self.assertEqual(config.server_name, "a.b")
