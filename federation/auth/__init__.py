"""Event authorisation: which state events authorise an event, and whether they do.

Spec anchor: server-server-api#authorisation-rules and the room version texts.
"""
