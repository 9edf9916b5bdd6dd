"""The format term: a think block followed by an answer block."""

from __future__ import annotations

from rewards.text.parsing import Blocks
from rewards.types import Verdict, scored


def format_verdict(blocks: Blocks) -> Verdict:
    """1 for exactly one think block and then one answer block, neither empty and nothing around them, else 0.

    White space around the blocks is allowed, a trailing newline included; an empty block is not.
    """
    return scored(float(blocks.format_fault is None), {"fault": blocks.format_fault})
