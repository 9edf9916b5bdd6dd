"""What the model will see of some rows, as one page: frames as drawn, true times, the prompt, and what is expected."""
