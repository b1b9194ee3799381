"""Configs: one file for each published recipe of this repository."""
