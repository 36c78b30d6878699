"""Fuzz targets: one module per parser, each runnable as `python -m tests.fuzz.<name> --seconds N`."""
