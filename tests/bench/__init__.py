"""CHAOS and Synapse side by side: the same work, one after the other, each on a fresh server."""
