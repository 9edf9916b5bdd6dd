"""How far a checkpoint's responses rest on the video, without a judge: attention shares and interventions.

python -m videor2_rl.probe experiment=demo_evaluate evaluation.probes=[attention,interventions]

Reads the evaluation that videor2_rl.evaluate left under the same output_dir and checkpoints, its greedy responses where
it has them, and writes probes.json and probes.jsonl beside it. Needs neither Ray nor vLLM.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from videor2_rl.app import hydra_app
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import EvaluateRun


def probe_all(run: EvaluateRun) -> None:
    """Probe every checkpoint of an evaluation that is complete.

    Raises:
        ConfigError: no probes are asked for, or an evaluation is missing or of other questions.
    """
    if not run.evaluation.probes:
        raise ConfigError("evaluation.probes: found none; give evaluation.probes=[attention,interventions]")
    from videor2_rl.evaluation.held_out import held_out
    from videor2_rl.evaluation.probes.run import run_probes
    from videor2_rl.evaluation.summary import evaluation_dir, read_evaluation
    from videor2_rl.run.tracking import ProgressBar

    mode = "greedy" if "greedy" in run.evaluation.modes else run.evaluation.modes[0]
    samples = {sample.sample_id: sample for sample in held_out(run).samples}
    for stage, checkpoint in run.evaluation.folders.items():
        folder = evaluation_dir(Path(run.output_dir), stage=stage, mode=mode, benchmark=run.evaluation.benchmark)
        _, rows = read_evaluation(folder)
        responses = {str(row["doc"]["id"]): row["resps"][0][0] for row in rows[: run.evaluation.probe_samples]}
        if unknown := next((name for name in responses if name not in samples), None):
            raise ConfigError(f"{folder}: sample {unknown} is not among the questions; evaluate again before probing")
        with ProgressBar(f"probing {stage}", len(responses)) as progress:
            run_probes(
                folder,
                responses,
                [samples[name] for name in responses],
                probes=run.evaluation.probes,
                model=replace(run.model, path=checkpoint),
                video=run.video,
                device=run.cluster.device,
                max_tokens=run.rollout.max_response_tokens,
                resamples=run.evaluation.bootstrap_resamples,
                seed=run.seed,
                on_sample=lambda: progress.advance(1),
            )


_ABOUT = """\
python -m videor2_rl.probe: how far a checkpoint's responses rest on the video; no judge, no Ray, no vLLM.
Give what videor2_rl.evaluate was given, and evaluation.probes=[attention,interventions]: it reads the evaluation
under output_dir, at most evaluation.probe_samples of its responses, and writes probes.json and probes.jsonl there."""

main = hydra_app("evaluate", EvaluateRun, probe_all, about=_ABOUT, finishes=False)

if __name__ == "__main__":
    main()
