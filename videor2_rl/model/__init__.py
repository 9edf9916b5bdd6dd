"""What the model reads: prompts, families, packed groups and their attention, visual embeddings."""
