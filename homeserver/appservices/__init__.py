"""Application services: bridges and bots that act as many users, and are told what happens where they are."""
