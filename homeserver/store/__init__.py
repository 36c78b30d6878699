"""Functions over a transaction, one module for each noun. No classes that hold connections, no algorithms.

Every module holds its statements as constants and offers functions that take a ``Tx`` (or, where they claim
positions in the log, a ``WriteTx``) first.
"""
