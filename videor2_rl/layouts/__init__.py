"""Rows as people have them: the files that hold them, and the layouts that they come in."""
