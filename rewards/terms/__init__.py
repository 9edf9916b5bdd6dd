"""What is paid: one file a term, and the small terms that a configuration can add."""
