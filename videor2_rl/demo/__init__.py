"""The demo's synthetic world: clips with known events, questions about them, and a tiny model."""
