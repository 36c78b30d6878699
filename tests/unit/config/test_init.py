"""`chaos init`: what it writes, and what it never touches."""

from __future__ import annotations

import stat
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from homeserver.config.init import development_config, ensure_signing_key, initialise
from homeserver.config.load import ConfigError, load_config, parse_config
from homeserver.config.signing_key import (
    KeyFile,
    OldKey,
    SigningKeyError,
    create_private_file,
    format_signing_key,
    new_signing_key,
    parse_key_file,
    parse_signing_keys,
    read_signing_keys,
)
from homeserver.runtime.entropy import SeededEntropy


class InitialiseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.path = self.folder / "chaos.yaml"
        self.entropy = SeededEntropy(1)

    def test_writes_a_config_that_loads_and_a_private_key(self) -> None:
        done = initialise("chat.example.org", self.path, {}, self.entropy)
        config = load_config(self.path, {})
        self.assertEqual(config.server_name, "chat.example.org")
        self.assertTrue(done.key_created)
        self.assertEqual(done.key_path, config.signing_key_path)
        self.assertEqual(stat.S_IMODE(done.key_path.stat().st_mode), 0o600)
        (key,) = read_signing_keys(done.key_path)
        self.assertRegex(done.key_path.read_text(), r"\Aed25519 a_[A-Za-z]{4} [A-Za-z0-9+/]{43}\n\Z")
        self.assertEqual(key.key_id, f"ed25519:{key.version}")
        self.assertNotIn(repr(key.seed), repr(key))

    def test_the_data_folder_is_ours_alone(self) -> None:
        config = load_config(initialise("chat.example.org", self.path, {}, self.entropy).config_path, {})
        self.assertEqual(stat.S_IMODE(config.data_dir.stat().st_mode), 0o700)

    def test_never_overwrites(self) -> None:
        initialise("chat.example.org", self.path, {}, self.entropy)
        before = (self.path.read_text(), (self.folder / "data/signing.key").read_text())
        with self.assertRaises(ConfigError) as caught:
            initialise("other.example.org", self.path, {}, self.entropy)
        self.assertIn("exists already", str(caught.exception))
        self.path.unlink()
        self.assertFalse(initialise("chat.example.org", self.path, {}, self.entropy).key_created)
        self.assertEqual((self.path.read_text(), (self.folder / "data/signing.key").read_text()), before)

    def test_a_bad_name_leaves_nothing_behind(self) -> None:
        for name in ("no spaces", "", 'x"\ndatabase: y', "a" * 300):
            with self.assertRaises(ConfigError) as caught:
                initialise(name, self.path, {}, self.entropy)
            self.assertEqual(len(caught.exception.problems), 1)
        self.assertFalse(self.folder.exists())

    def test_a_key_named_in_the_config_is_never_made_up(self) -> None:
        text = b"server_name: a.b\nsigning_key_file: missing.key\n"
        config = parse_config(text, {}, folder=self.folder)
        with self.assertRaises(ConfigError) as caught:
            ensure_signing_key(config, self.entropy)
        self.assertIn("missing.key does not exist", str(caught.exception))

    def test_development_needs_no_file(self) -> None:
        config = development_config({"CHAOS_DATA_DIR": "/elsewhere"}, self.folder)
        self.assertEqual((config.server_name, config.registration.mode), ("localhost", "open"))
        self.assertEqual(config.data_dir, Path("/elsewhere"))
        self.assertEqual([listener.port for listener in config.listeners], [8008])


class SigningKeyTests(SynchronousTestCase):
    def test_the_format_of_the_specifications_test_key(self) -> None:
        """spec: appendices#signing-key-seed"""
        (key,) = parse_signing_keys("ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n")
        self.assertEqual((key.key_id, len(key.seed)), ("ed25519:1", 32))
        self.assertEqual(format_signing_key(key), "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0\n")

    def test_several_keys_and_empty_lines(self) -> None:
        first, second = new_signing_key(SeededEntropy(1)), new_signing_key(SeededEntropy(2))
        text = f"\n{format_signing_key(first)}\n{format_signing_key(second)}"
        self.assertEqual(parse_signing_keys(text), (first, second))

    def test_old_keys_with_the_time_of_their_end(self) -> None:
        key = new_signing_key(SeededEntropy(1))
        found = parse_key_file(f"{format_signing_key(key)}ed25519 old 1600000000000 {'A' * 43}\n")
        self.assertEqual(found, KeyFile((key,), (OldKey("old", 1_600_000_000_000, b"\0" * 32),)))
        for line in (
            "ed25519 old soon " + "A" * 43,
            "ed25519 old -1 " + "A" * 43,
            "ed25519 old 1 AAAA",
            "ed25519 old 1 2 " + "A" * 43,
            # Twice the same name: nobody could tell what it has signed.
            f"ed25519 {key.version} 1 " + "A" * 43,
        ):
            with self.assertRaises(SigningKeyError):
                parse_key_file(format_signing_key(key) + line)
        # Old keys alone sign nothing.
        with self.assertRaises(SigningKeyError):
            parse_key_file("ed25519 old 1 " + "A" * 43)

    def test_a_file_is_whole_or_not_there(self) -> None:
        path = Path(self.mktemp())
        with self.assertRaises(UnicodeEncodeError):
            create_private_file(path, "half a key, and then \ud800")
        self.assertFalse(path.exists())
        create_private_file(path, "a key")
        with self.assertRaises(FileExistsError):
            create_private_file(path, "another")
        self.assertEqual(path.read_text(), "a key")

    def test_files_that_hold_no_key(self) -> None:
        for text in (
            "",
            "ed25519 a_x",
            "rsa a_x AAAA",
            "ed25519 a-x " + "A" * 43,
            "ed25519 a AAAA",
            "ed25519 a ???",
        ):
            with self.assertRaises(SigningKeyError):
                parse_signing_keys(text)
        path = Path(self.mktemp())
        with self.assertRaises(SigningKeyError):
            read_signing_keys(path)
        for raw in (b"\xff\x00", b"x" * 100_000):
            path.write_bytes(raw)
            with self.assertRaises(SigningKeyError):
                read_signing_keys(path)

    @given(st.text(max_size=80))
    @settings(max_examples=100, deadline=None)
    def test_any_text_gives_keys_or_one_clear_line(self, text: str) -> None:
        try:
            keys = parse_signing_keys("ed25519 " + text)
        except SigningKeyError as error:
            self.assertNotIn("\n", str(error))
        else:
            self.assertTrue(all(len(key.seed) == 32 for key in keys))
