"""MVBench (arXiv:2311.17005): twenty short tasks, 3 to 5 options."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

from videor2_rl.evaluation.benchmarks.common import Benchmark, Question, Row, true_letter

_FOLDERS = MappingProxyType(
    {
        "action_antonym": ("ssv2_video",),
        "action_count": ("perception/videos",),
        "action_localization": ("sta/sta_video_segment", "sta/sta_video"),
        "action_prediction": ("star/Charades_segment", "star/Charades_v1_480"),
        "action_sequence": ("star/Charades_segment", "star/Charades_v1_480"),
        "character_order": ("perception/videos",),
        "counterfactual_inference": ("clevrer/video_validation",),
        "egocentric_navigation": ("vlnqa",),
        "episodic_reasoning": ("tvqa/video_fps3_hq_segment",),
        "fine_grained_action": ("Moments_in_Time_Raw/videos",),
        "fine_grained_pose": ("nturgbd_convert", "nturgbd"),
        "moving_attribute": ("clevrer/video_validation",),
        "moving_count": ("clevrer/video_validation",),
        "moving_direction": ("clevrer/video_validation",),
        "object_existence": ("clevrer/video_validation",),
        "object_interaction": ("star/Charades_segment", "star/Charades_v1_480"),
        "object_shuffle": ("perception/videos",),
        "scene_transition": ("scene_qa/video",),
        "state_change": ("perception/videos",),
        "unexpected_action": ("FunQA_test/test",),
    }
)
"""Task -> where its clips may lie; `_segment` holds them cut, so that start and end no longer apply."""


def question(row: Row, file: Path) -> Question:
    task = file.stem
    folders = _FOLDERS[task]
    names = (row["video"], f"{Path(row['video']).stem}.mp4")
    videos = [(folder, f"{root}{folder}/{name}") for folder in folders for root in ("video/", "") for name in names]
    options = tuple(str(option) for option in row["candidates"])
    return Question(
        row_id=f"{task}-{row['video']}-{row['question']}",
        videos=tuple(video for _, video in videos),
        text=row["question"],
        options=options,
        truth=true_letter(row["answer"], options),
        kind="choice",
        bounds_s=(row["start"], row["end"]) if "start" in row else None,
        cut_videos=tuple(video for folder, video in videos if folder.endswith("_segment")),
    )


def logged(row: Row, answer: str, truth: str) -> dict[str, Any]:
    return {"pred_answer": answer, "gt_answer": truth, "score": int(answer == truth)}


BENCHMARK = Benchmark(
    name="mvbench",
    title="MVBench",
    source="huggingface.co/datasets/OpenGVLab/MVBench",
    layout="json/<task>.json, and under video/ the unpacked clips",
    annotations=("json/*.json",),
    question=question,
    score_key="mvbench_accuracy",
    logged=logged,
)
