"""CHAOS: a Matrix homeserver. The protocol core lives in `federation`, everything that does I/O lives here."""

__version__ = "0.1.0"
