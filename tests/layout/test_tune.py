"""The blocks of a network, and the layout that is chosen for them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest

from bpudeploy.backends.horizon.fast import fast_profile
from bpudeploy.backends.horizon.toolchain.installed import Toolchain
from bpudeploy.cli.main import main
from bpudeploy.errors import StageError
from bpudeploy.layout.blocks import all_blocks, distinct_blocks
from bpudeploy.restructure.export import network_of_module
from bpudeploy.restructure.rewrite import rewrite
from bpudeploy.spec.layout import LayoutFacts
from bpudeploy.tuning import ROWS, Trial, best_rows, in_rows
from tests.layout.test_layout import outputs
from tests.restructure.test_families import MakeModel, shape_of

FACTS = LayoutFacts(rows=4, columns=8, stride=2, keys=4)


@pytest.fixture
def vit(make_model: MakeModel) -> Any:
    model = make_model("vit_tiny_patch16_224", img_size=64, depth=4)
    return rewrite(network_of_module(model, shape_of(model))).model


def test_blocks_that_differ_only_in_weights_are_one(vit: Any) -> None:
    blocks = distinct_blocks(vit)
    assert sum(block.count for block in blocks) == 2 * 4 + 1, "attentions, the first with the patches, MLPs, the head"
    mlp = next(b for b in blocks if b.name == "blocks.0.norm2.square")
    assert mlp.count == 3, "the last block has one token"
    assert [len(b.model.graph.input) for b in blocks] == [1] * len(blocks)


def test_the_blocks_one_after_another_are_the_network(vit: Any) -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    (truth,) = outputs(vit, image)
    value = image
    for block in all_blocks(onnx.shape_inference.infer_shapes(vit)):
        (value,) = outputs(block.model, value)
    np.testing.assert_array_equal(value, truth)


@pytest.mark.parametrize("rows", ROWS)
def test_a_block_is_the_same_in_any_number_of_rows(rows: int, vit: Any) -> None:
    rng = np.random.default_rng(rows)
    for block in distinct_blocks(vit):
        if not block.tokens:
            continue
        shape = [d.dim_value for d in block.model.graph.input[0].type.tensor_type.shape.dim]
        image = rng.standard_normal(shape).astype(np.float32)
        laid = in_rows(block, FACTS, rows)
        (before,), (after,) = outputs(block.model, image), outputs(laid, image)
        assert np.abs(after - before).max() < 1e-5 * np.ptp(before)
        if rows > 1:
            assert not any(n.op_type == "Softmax" for n in laid.graph.node), "it is written out"


def test_the_rows_of_the_least_time_in_all_blocks_are_chosen() -> None:
    trials = [
        Trial("attention", 10, (197,), 1, 100.0),
        Trial("attention", 10, (197,), 2, 20.0),
        Trial("attention", 10, (197,), 4, 18.0),
        Trial("mlp", 30, (197,), 1, 50.0),
        Trial("mlp", 30, (197,), 2, 5.0),
        Trial("mlp", 30, (197,), 4, 7.0),
        Trial("window", 2, (49,), 1, 3.0),  # other rows give the same graph
        Trial("broken", 1, (9,), 1, None, "crashed"),
    ]
    assert best_rows(trials) == {49: 1, 197: 2}


def test_tune_compiles_each_form_and_prints_the_layout(
    toolchain: Toolchain, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(model: Any, *others: Any) -> Any:
        if any(n.op_type == "Softmax" for n in model.graph.node):
            raise StageError("it crashed")
        return fast_profile(model, *others)

    monkeypatch.setattr("bpudeploy.tuning.fast_profile", compiled)
    monkeypatch.setattr("bpudeploy.tuning.ROWS", (1, 2))
    argv = ["tune", "vit_tiny_patch16_224", "--target", "rdk-x5", "--image-size", "32"]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tuned"] == {"5": 2}
    assert any(trial["failure"] == "it crashed" for trial in found["trials"] if trial["rows"] == 1)


def test_a_network_without_tokens_or_a_target_without_a_layout_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "resnet18", "--target", "rdk-x5"]) == 2
    assert "resnet18 has no tokens" in capsys.readouterr().err
    assert main(["tune", "resnet18", "--target", "rdk-s100"]) == 2
    assert "name one target with a `layout:`" in capsys.readouterr().err
