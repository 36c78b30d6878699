"""Calls: what a server tells clients about relays and media servers. The media never comes here."""
