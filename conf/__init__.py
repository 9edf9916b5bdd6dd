"""Hydra's configuration tree: one primary file for each app, one group for each section."""
