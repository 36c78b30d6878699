"""The sample community of a development server."""
