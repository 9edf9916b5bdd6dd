"""Scoring of stored responses: rows in, verdicts out."""
