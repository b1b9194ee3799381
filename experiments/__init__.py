"""Binaries around the library: run them from a checkout, as `python -m experiments.NAME`."""
