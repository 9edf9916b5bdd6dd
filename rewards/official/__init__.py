"""The reward of arXiv:2511.23478 as its published code computes it, faults included, for comparison with ours.

Written from the code's behaviour and compared with it case by case (`tests/rewards/official/cases.jsonl`). Each fault
beside what the default reward makes of it: `docs/rewards.md`.
"""
