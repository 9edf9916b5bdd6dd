"""What a scored file comes to: means and counts of verdicts."""

from __future__ import annotations

from collections import Counter

from videor2_rl.scoring.batch import ScoredRow


class Summary:
    """Running sums over scored rows."""

    def __init__(self) -> None:
        self._verdicts: Counter[tuple[str, str]] = Counter()
        self._values: dict[str, float] = {}
        self._first_reasons: dict[str, str] = {}
        self._rewards = self._logged = 0.0
        self._num_rows = self._num_rewards = self._num_logged = 0

    def add(self, result: ScoredRow) -> None:
        """Count one row, with the reward that a run logged for it where there is one."""
        scored, logged = result.scored, result.row.passed_on.get("logged_reward")
        self._num_rows += 1
        if scored.reward is not None:
            self._rewards += scored.reward
            self._num_rewards += 1
        if logged is not None:
            self._logged += logged
            self._num_logged += 1
        for name, verdict in scored.terms.items():
            self._verdicts[name, verdict.status] += 1
            self._values[name] = self._values.get(name, 0.0) + (verdict.value or 0.0)
            if verdict.status == "failure":
                self._first_reasons.setdefault(name, str(verdict.detail["reason"]))

    def lines(self) -> list[str]:
        """One line for the rewards, one for each term."""
        lines = [f"{self._num_rows} rows, mean reward {_mean(self._rewards, self._num_rewards)}"]
        if self._num_logged:
            lines[0] += f", logged by the run {_mean(self._logged, self._num_logged)}"
        for name, total in self._values.items():
            scores, abstentions, failures = (
                self._verdicts[name, status] for status in ("score", "abstention", "failure")
            )
            line = f"  {name}: mean {_mean(total, scores)} of {scores} scored"
            line += f", {abstentions} abstained" if abstentions else ""
            lines.append(line + (f", {failures} failed, the first: {self._first_reasons[name]}" if failures else ""))
        return lines


def _mean(total: float, count: int) -> str:
    return f"{total / count:.4f}" if count else "-"
