"""What rooms have to do with other servers: their events and joins coming in, ours answered for, gaps filled."""
