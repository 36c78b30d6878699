"""The HTTP edge: a hostile byte stream becomes a `Request`, a handler's answer becomes bytes.

Nothing in here knows rooms, users or storage. Handlers see `Request` and `Response` only, never the transport.
spec: client-server-api#api-standards
"""
