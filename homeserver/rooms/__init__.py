"""Rooms: one actor orders each, one committer stores them all.

Concurrency in three sentences: the state of a room is owned by its actor; nobody else writes it; the actor never
awaits the network.
"""
