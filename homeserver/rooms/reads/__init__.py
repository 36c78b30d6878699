"""What readers see of rooms: history, state, search, spaces and summaries. Nothing here changes a room."""
