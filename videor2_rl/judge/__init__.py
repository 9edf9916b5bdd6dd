"""Asking a judge: an asynchronous client for any OpenAI-compatible server. Knows no Ray and no reward.

What is asked and how the replies are read: `rewards.judge`.
"""
