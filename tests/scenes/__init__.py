"""Scenes: conversations that read like a story, played against the whole server."""
