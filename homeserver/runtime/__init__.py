"""The outside world, injected: clock, entropy, background tasks, logging, metrics, process signals.

Only this package (and `homeserver.__main__`) may touch real time, real randomness or the process itself.
Everything else takes a `Clock` or an `Entropy` as an argument, so that a simulation can supply its own.
"""
