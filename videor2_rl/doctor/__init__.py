"""What a run will need, and whether its data fit, before anything is booked."""
