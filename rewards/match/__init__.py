"""Which claim of a response is which reference event: by time, by meaning, by who did what to whom."""
