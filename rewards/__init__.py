"""Verifiable rewards for video reasoning: pure functions of text and target, without torch, Ray or I/O."""
