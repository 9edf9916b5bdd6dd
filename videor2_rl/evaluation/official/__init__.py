"""What the paper's own scripts compute from prediction logs, to the last digit, so that numbers stay comparable.

Behaviour as read from, and tested against, `eval/scripts/` of github.com/mbzuai-oryx/Video-R2; quirks are kept on
purpose and named where they stand. Our own statistics are in `videor2_rl.evaluation.tac` and `vas`.
"""
