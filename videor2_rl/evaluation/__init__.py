"""Evaluation: per-sample results become means with intervals, and files that other tools can read."""
