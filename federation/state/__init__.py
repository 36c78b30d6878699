"""State resolution: one room state out of several. `resolve.resolve` chooses the algorithm of the room version.

Spec anchor: server-server-api#room-state-resolution and the room version texts.
"""
