"""Accounts: who somebody is, what they may do here, and what they keep with us."""
