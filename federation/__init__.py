"""The pure core of the homeserver: what the Matrix specification decides, as values and functions.

Nothing here performs I/O, reads a clock, draws randomness or keeps module-level mutable state. Callers pass
time, keys and entropy in; verdicts, bytes and needs come out.
"""
