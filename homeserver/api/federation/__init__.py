"""The server-server API: one file a section of the specification."""
