"""From a file to frames: sampling on true presentation times, resize, overlays, cache. Knows no model."""
