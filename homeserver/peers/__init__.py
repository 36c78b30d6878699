"""Other servers: their keys, what we ask them and what we send them."""
