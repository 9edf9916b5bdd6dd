"""What a response says: blocks, sentences, choices, numbers, claims about times."""
