"""Training: verl's workers over packed groups, the reference among them, and what they ask of verl."""
