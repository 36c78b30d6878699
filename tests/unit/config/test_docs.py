"""The generated documentation is complete, correct and committed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from homeserver.config.docs import reference_markdown, sample_yaml
from homeserver.config.load import parse_config
from homeserver.config.options import key_of, option_of
from homeserver.config.schema import Config

COMMITTED = Path(__file__).parents[3] / "docs" / "configuration.md"


class DocumentationTests(SynchronousTestCase):
    def test_the_committed_page_is_the_generated_one(self) -> None:
        self.assertEqual(COMMITTED.read_text(encoding="utf-8"), reference_markdown(), "run `make docs`")

    def test_the_sample_is_a_valid_file_that_keeps_every_default(self) -> None:
        folder = Path("/srv")
        sample = parse_config(sample_yaml("a.example").encode(), {}, folder=folder)
        bare = parse_config(b"server_name: a.example", {}, folder=folder)
        self.assertEqual(dataclasses.replace(sample, public_url=None), bare)

    def test_the_sample_quotes_names_that_yaml_would_take_for_something_else(self) -> None:
        for name in ("[::1]:8448", "10.0.0.1", "1.2", "no", "localhost", "localhost:8448", "a.example:80"):
            self.assertEqual(parse_config(sample_yaml(name).encode(), {}, folder=Path("/")).server_name, name)

    def test_the_sample_is_short_and_the_reference_is_whole(self) -> None:
        keys = [line for line in sample_yaml().splitlines() if line and not line.lstrip().startswith("#")]
        self.assertLessEqual(len(keys), 16)
        page = reference_markdown()
        for declared in dataclasses.fields(Config):
            self.assertIn(f"| `{key_of(declared)}` |", page)
            self.assertTrue(option_of(declared).doc.endswith("."), declared.name)

    def test_half_a_rate_limit_is_no_mistake_and_not_called_one(self) -> None:
        parse_config(b"server_name: a.b\nrate_limits: {login: {burst: 3}}", {}, folder=Path("/"))
        section = reference_markdown().split("### `rate_limits.<class>`")[1].split("###")[0]
        self.assertNotIn("*required*", section)
