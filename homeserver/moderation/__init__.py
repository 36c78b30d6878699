"""What keeps people apart who want to be apart, and tells those in charge of what went wrong."""
