"""Video-R2 RL: post-training of video-language models with timestamp-aware SFT and GRPO."""
