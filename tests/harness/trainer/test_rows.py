"""A user's rows: padding and ignored labels never count, whatever form they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import SpecError
from harness.model import token_losses
from harness.spec import Model
from harness.trainer.rows import DataShelf, collate, model_inputs, read_row

LONG = {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, 9]}
SHORT = {"input_ids": [3, 4]}


def shelf(*rows: Any) -> DataShelf:
    """Return the rows as domain "a"."""
    return DataShelf("train", {"a": list(rows)})


def test_a_batch_is_inputs_targets_and_what_counts() -> None:
    batch = shelf(LONG, SHORT).batch([("a", 0), ("a", 1)], ("b", "a"), "cpu")

    assert batch.inputs.tolist() == [[5, 6, 7, 8], [3, 4, 0, 0]]
    assert batch.targets.tolist() == [[0, 7, 8, 9], [4, 0, 0, 0]]
    assert batch.mask.tolist() == [[False, True, True, True], [True, False, False, False]]
    assert batch.domains.tolist() == [1, 1]
    assert batch.rows.tolist() == [0, 1]


@pytest.mark.parametrize(
    "row",
    [
        {"input_ids": [3, 4, 0, 0], "attention_mask": [1, 1, 0, 0]},
        {"input_ids": [0, 0, 3, 4], "attention_mask": [0, 0, 1, 1], "labels": [9, 9, 3, 4]},
        {"input_ids": np.array([3, 4], dtype=np.int32)},
        {"input_ids": torch.tensor([3, 4]), "labels": None},
    ],
    ids=["padded on the right", "on the left", "numpy", "torch"],
)
def test_padding_is_cut_off(row: Any) -> None:
    ids, labels = read_row(row, "row")

    assert ids.tolist() == [3, 4]
    assert labels.tolist() == [3, 4]


def test_padding_and_ignored_labels_change_no_loss() -> None:
    """A row's losses in a padded batch are its losses alone, and exactly 0 where it is padded."""
    from harness.model import build_model

    shape: dict[str, bool | int | float | str] = {"n_layer": 2, "n_embd": 32, "n_head": 2}
    model = build_model(Model(config=shape), vocab_size=512, tokens=32, seed=0)
    rows = shelf(LONG, SHORT)
    with torch.no_grad():
        together = token_losses(model, rows.batch([("a", 0), ("a", 1)], ("a",), "cpu"))
        alone = token_losses(model, rows.batch([("a", 1)], ("a",), "cpu"))

    assert together[1, :1] == pytest.approx(alone[0, :1])
    assert together[0, 0] == 0  # the prompt
    assert (together[1, 1:] == 0).all()
    assert (together[0, 1:] > 0).all()


def test_the_models_own_loss_is_the_mean_over_what_counts() -> None:
    """What the Trainer computes from our inputs is what the loop would minimise."""
    from harness.model import build_model

    shape: dict[str, bool | int | float | str] = {"n_layer": 2, "n_embd": 32, "n_head": 2}
    model = build_model(Model(config=shape), vocab_size=512, tokens=32, seed=0)
    batch = shelf(LONG, SHORT).batch([("a", 0), ("a", 1)], ("a",), "cpu")
    with torch.no_grad():
        losses = token_losses(model, batch)
        loss = model(**model_inputs(batch)).loss
        evaluated = model(**collate([LONG, SHORT])).loss

    assert float(loss) == pytest.approx(float(losses.sum() / 4), rel=1e-6)
    assert float(evaluated) == pytest.approx(float(loss), rel=1e-5)


def test_sizes_are_counted_without_padding_and_estimated_where_there_are_many_rows() -> None:
    padded = {"input_ids": [3, 4, 0, 0], "attention_mask": [1, 1, 0, 0]}

    assert shelf(LONG, SHORT, padded).count_tokens("a", seed=0) == 9
    many = DataShelf("train", {"a": [SHORT, LONG] * 1000})
    assert many.count_tokens("a", seed=0) == pytest.approx(7000, rel=0.1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "no tokens"}, "train['a'] row 0: has no input_ids; tokenize the data set first"),
        (
            {"input_ids": [1, 2], "labels": [1]},
            "[2] and labels [1] are not two lists of one length",
        ),
        ({"input_ids": [1]}, "row 0: 1 tokens leave nothing to predict"),
        ({"input_ids": [1, 2, 99]}, "row 0: token 99 is outside the model's vocabulary of 50; tok"),
        ({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}, "attention_mask has a gap"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(row: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        DataShelf("train", {"a": [row]}, vocab_size=50).read("a", 0)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_split_without_rows_says_so() -> None:
    with pytest.raises(SpecError, match="probe: no domain has any row to look at; give probe="):
        DataShelf("probe", {}).batch([], ("a",), "cpu")


def test_a_dataset_of_datasets_is_a_data_set() -> None:
    datasets = pytest.importorskip("datasets")
    rows = [LONG, {**SHORT, "labels": [-100, 4]}]
    picks = [("a", 1), ("a", 0)]

    found = shelf(*datasets.Dataset.from_list(rows)).batch(picks, ("a",), "cpu")
    direct = DataShelf("train", {"a": datasets.Dataset.from_list(rows)}).batch(picks, ("a",), "cpu")

    expected = shelf(*rows).batch(picks, ("a",), "cpu")
    for batch in (found, direct):
        assert torch.equal(batch.inputs, expected.inputs)
        assert torch.equal(batch.mask, expected.mask)


def test_a_data_set_in_which_nothing_counts_is_refused() -> None:
    with pytest.raises(SpecError, match=r"train\['a'\]: every label is -100"):
        shelf({"input_ids": [1, 2], "labels": [1, -100]}).count_tokens("a", seed=0)
