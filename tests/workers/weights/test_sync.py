"""Checks of published weights, without an engine."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videor2_rl.model.weights import ExpectedWeights, expected_weights
from videor2_rl.types import WeightSnapshot
from workers.weights.sync import (
    WeightsRefused,
    check_in_engine,
    check_snapshot,
    load_into_engine,
    pack_checkpoint,
    pack_weights,
    remove_orphaned_files,
    shared_file,
)

EXPECTED = ExpectedWeights({"a": (2, 3), "b": (4,), "c": ()}, tied=frozenset({"head"}))


def weights() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4), "c": torch.tensor(7.0)}


def packed(tensors: dict[str, torch.Tensor], version: int = 3) -> tuple[WeightSnapshot, np.ndarray]:
    return pack_weights(tensors.items(), version, tied=frozenset({"head"}))


def handmade_file(header: dict[str, object]) -> np.ndarray:
    text = json.dumps(header).encode()
    return np.frombuffer(struct.pack("<Q", len(text)) + text, dtype=np.uint8)


def test_a_snapshot_describes_its_bytes() -> None:
    unordered = dict(reversed(weights().items()))
    snapshot, data = packed({**unordered, "head": torch.zeros(2, 3)})
    assert snapshot.policy_version == 3
    assert snapshot.names == ("a", "b", "c")  # the tied tensor is left out
    assert snapshot.num_bytes == len(data.tobytes())
    assert snapshot.checksum == hashlib.sha256(data.tobytes()).hexdigest()


def test_the_bytes_are_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    _, data = packed({**weights(), "a": torch.arange(6.0).view(3, 2).t()})  # not contiguous
    with shared_file(data, 3, folder=tmp_path) as path:
        loaded = load_file(path)
    assert loaded["a"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert loaded["c"].item() == 7


def test_complete_weights_are_accepted() -> None:
    snapshot, data = packed(weights())
    check_snapshot(snapshot, data, expected=EXPECTED)
    assert set(snapshot.names) == set(EXPECTED.shapes)


def test_a_missing_tensor_is_named() -> None:
    tensors = weights()
    del tensors["b"]
    with pytest.raises(WeightsRefused, match="1 missing: b"):
        check_snapshot(*packed(tensors), expected=EXPECTED)


def test_an_unknown_tensor_is_named() -> None:
    with pytest.raises(WeightsRefused, match="1 unknown: extra"):
        check_snapshot(*packed({**weights(), "extra": torch.ones(1)}), expected=EXPECTED)


def test_a_misshapen_tensor_is_named() -> None:
    with pytest.raises(WeightsRefused, match="1 misshapen: a"):
        check_snapshot(*packed({**weights(), "a": torch.zeros(3, 2)}), expected=EXPECTED)


def test_all_faults_are_told_at_once_and_long_lists_are_cut() -> None:
    many = ExpectedWeights({f"w{i}": (1,) for i in range(9)}, tied=frozenset())
    with pytest.raises(WeightsRefused) as refused:
        check_snapshot(*packed({"x": torch.ones(1)}), expected=many)
    assert "9 missing: w0, w1, w2, w3, w4 and 4 more; 1 unknown: x" in str(refused.value)


def test_a_short_transfer_is_refused() -> None:
    snapshot, data = packed(weights())
    for other in (data[:-1], np.concatenate([data, data[:1]])):
        with pytest.raises(WeightsRefused, match="bytes of"):
            check_snapshot(snapshot, other, expected=EXPECTED)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40))
def test_bytes_that_are_no_safetensors_file_are_refused(content: bytes) -> None:
    snapshot, _ = packed(weights())
    data = np.frombuffer(content, dtype=np.uint8)
    with pytest.raises(WeightsRefused):
        check_snapshot(replace(snapshot, num_bytes=len(content)), data, expected=EXPECTED)


def test_a_header_written_by_hand_is_read() -> None:
    data = handmade_file(
        {"__metadata__": {"format": "pt"}, "b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    )
    snapshot, _ = packed(weights())
    with pytest.raises(WeightsRefused, match="2 missing: a, c"):
        check_snapshot(replace(snapshot, num_bytes=len(data)), data, expected=EXPECTED)


def test_the_shared_file_is_gone_afterwards_even_after_an_error(tmp_path: Path) -> None:
    data = np.arange(10, dtype=np.uint8)
    with pytest.raises(KeyError), shared_file(data, 1, folder=tmp_path) as path:
        assert path.read_bytes() == bytes(range(10))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_orphans_are_removed_and_files_in_use_are_not(tmp_path: Path) -> None:
    orphan = tmp_path / "videor2-weights-7-abc.safetensors"
    orphan.write_bytes(b"left behind")
    (tmp_path / "of-somebody-else").write_bytes(b"")
    with shared_file(np.zeros(4, dtype=np.uint8), 8, folder=tmp_path) as used:
        assert remove_orphaned_files(folder=tmp_path) == [orphan]
        assert used.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["of-somebody-else"]


def test_a_file_locked_by_hand_counts_as_in_use(tmp_path: Path) -> None:
    path = tmp_path / "videor2-weights-7-abc.safetensors"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_orphaned_files(folder=tmp_path) == []


class Engine:
    """What vLLM's engine is asked in an update; several processes, each with an answer of its own."""

    def __init__(self, answers: Sequence[object]) -> None:
        self._answers = answers
        self.calls: list[object] = []

    async def start_weight_update(self, *, is_checkpoint_format: bool) -> None:
        self.calls.append(("start", is_checkpoint_format))

    async def update_weights(self, request: Any) -> None:
        self.calls.append(request.update_info)

    async def finish_weight_update(self) -> None:
        self.calls.append("finish")

    async def collective_rpc(self, method: str, args: tuple[str, ...] = ()) -> Sequence[object]:
        self.calls.append((method, *args))
        return self._answers


@pytest.fixture
def request_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one record that is needed of vLLM, whose import takes seconds."""
    name = "vllm.distributed.weight_transfer.base"
    module = ModuleType(name)
    vars(module)["WeightTransferUpdateRequest"] = SimpleNamespace
    monkeypatch.setitem(sys.modules, name, module)


def test_an_update_is_complete_when_every_engine_process_reports_its_version(request_of_vllm: None) -> None:
    snapshot, _ = packed(weights(), version=3)
    engine = Engine([3, 3])
    asyncio.run(load_into_engine(engine, snapshot, Path("/shm/w")))
    update = {"path": "/shm/w", "policy_version": 3}
    assert engine.calls == [("start", True), update, "finish", ("loaded_version",)]


@pytest.mark.parametrize("answers", [[2, 3], [3, 2], [3, 4], [3, None]])
def test_an_engine_process_with_another_version_is_no_complete_update(
    request_of_vllm: None, answers: list[object]
) -> None:
    snapshot, _ = packed(weights(), version=3)
    with pytest.raises(RuntimeError, match="after loading 3"):
        asyncio.run(load_into_engine(Engine(answers), snapshot, Path("/shm/w")))


def test_every_engine_process_must_see_the_published_bytes() -> None:
    snapshot, _ = packed(weights(), version=3)
    engine = Engine([snapshot.checksum, snapshot.checksum])
    asyncio.run(check_in_engine(engine, snapshot, Path("/shm/w")))
    assert engine.calls == [("weights_checksum", "/shm/w")]
    for answers in (["0" * 64, snapshot.checksum], [snapshot.checksum, "0" * 64]):
        with pytest.raises(WeightsRefused, match="weights 3 are damaged: sha256 000000000000"):
            asyncio.run(check_in_engine(Engine(answers), snapshot, Path("/shm/w")))


def test_the_expected_names_are_those_of_the_model_itself(checkpoint: Path) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    state = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint).state_dict()
    expected = expected_weights(str(checkpoint))
    assert expected.tied == {"lm_head.weight"}
    assert dict(expected.shapes) == {name: tuple(t.shape) for name, t in state.items() if name != "lm_head.weight"}


def test_a_checkpoint_folder_is_packed_completely(checkpoint: Path) -> None:
    snapshot, data = pack_checkpoint(str(checkpoint), 5)
    check_snapshot(snapshot, data, expected=expected_weights(str(checkpoint)))
    assert snapshot.policy_version == 5
