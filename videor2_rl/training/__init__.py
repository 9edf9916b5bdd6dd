"""The algorithm: the GRPO loop, its advantages, its metrics and the evaluations while it runs. Knows no Ray."""
