"""What we register with verl: a CPU platform and training engines."""
