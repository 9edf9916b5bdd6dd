"""Video-MME (arXiv:2405.21075): short, medium and long clips, 4 options, subtitles."""

from __future__ import annotations

from videor2_rl.evaluation.benchmarks.common import Benchmark, logged_letters, with_subtitles

BENCHMARK = Benchmark(
    name="videomme",
    title="Video-MME",
    source="huggingface.co/datasets/lmms-lab/Video-MME",
    layout="videomme/test-*.parquet, data/<videoID>.mp4 and subtitle/<videoID>.srt",
    annotations=("videomme/*.parquet", "*.parquet", "*.jsonl", "*.json"),
    question=with_subtitles(videos="data", subtitles="subtitle"),
    score_key="videomme_perception_score",
    logged=logged_letters,
)
