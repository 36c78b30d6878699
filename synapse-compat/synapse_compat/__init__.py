"""What lets a server, its tools and its people come over from Synapse. Nothing in `homeserver` imports this."""
