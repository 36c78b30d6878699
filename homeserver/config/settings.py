"""The configuration in force: reloadable keys change under whoever asks again."""

from __future__ import annotations

from homeserver.config.schema import Config


class Settings:
    """Holds it. Only a reload writes to it."""

    __slots__ = ("config",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def get(self) -> Config:
        """The whole configuration."""
        return self.config
