"""One clip, one question: the answer as it comes, its times on the clip, and how its reasoning is read."""
