"""Real Matrix clients, written by others, against a real server over real sockets.

Each program takes a phase: `talk` (two users do everything that people do), `burst` (messages without end, while
the test kills the server), `verify` (on the restarted server: all that was acknowledged is there exactly once).
"""
