"""The invariants of the database, by noun; ``homeserver.store.check`` runs them all."""
