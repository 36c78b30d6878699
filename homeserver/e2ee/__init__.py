"""End-to-end encryption: keys and messages of devices, which the server keeps and hands on but cannot read."""
