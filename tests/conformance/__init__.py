"""What we answer and what we send, held against the official OpenAPI files of the Matrix specification."""
