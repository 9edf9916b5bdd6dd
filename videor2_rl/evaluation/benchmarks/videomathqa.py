"""VideoMathQA (arXiv:2506.05349): mathematics in videos, 5 options."""

from __future__ import annotations

from videor2_rl.evaluation.benchmarks.common import Benchmark, logged_letters, with_subtitles

BENCHMARK = Benchmark(
    name="videomathqa",
    title="VideoMathQA",
    source="huggingface.co/datasets/MBZUAI/VideoMathQA",
    layout="mcq/test-*.parquet, videos/<videoID>.mp4 and subtitles/<videoID>.srt",
    annotations=("mcq/*.parquet", "*mcq*.parquet", "*.parquet", "*.jsonl", "*.json"),
    question=with_subtitles(videos="videos", subtitles="subtitles"),
    score_key="videomathqa_perception_score",
    logged=logged_letters,
)
