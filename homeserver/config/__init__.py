"""Configuration: frozen records, a strict loader, generated documentation, and `chaos init`."""
