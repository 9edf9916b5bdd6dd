"""The frames that the paper's training code gives its model, to the pixel, so that its checkpoints see what they know.

Behaviour as read from, and tested against, `train/qwen_vl_utils/vision_process.py` of github.com/mbzuai-oryx/Video-R2;
quirks are kept on purpose and named where they stand. Our own frames are in `decode`, `overlay` and `subtitles`.
"""
