"""A folder goes on with its own sweep only, and says what differs in others."""

import dataclasses
import json
import re
from typing import Any

import jax
import pytest

from lmcjax.sweep import SweepFolder, run_sweep

pytestmark = pytest.mark.usefixtures("quick_compilation", "four_per_batch")


# What is changed about the sweep, and what the error says
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "widths": ({"widths": (8,)}, "sweep.widths: [8, 12] there, [8] here"),
    "epochs": ({"epochs": 5}, "sweep.epochs: 4 there, 5 here"),
    "rates": ({"learning_rates": (0.03,)}, "sweep.learning_rates: [0.03, 0.1] there, [0.03] here"),
    "data": ({}, "data.fingerprint: "),
    "versions": ({}, f"versions.jax: '0.0.1' there, '{jax.__version__}' here"),
}


def edit_versions(folder: SweepFolder) -> None:
    about = folder.identity()
    about["versions"]["jax"] = "0.0.1"
    (folder.path / "sweep.json").write_text(json.dumps(about))


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("resume", [False, True])
def test_going_on_with_another_sweep_is_refused(sweep, snapshot, kind, resume, finished, digits):
    changes, message = OTHERS[kind]
    if kind == "data":
        other_labels = (digits.train.labels + 1) % 10
        digits = digits._replace(train=digits.train._replace(labels=other_labels))
    if kind == "versions":
        edit_versions(finished)
    before = snapshot(finished.path)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        run_sweep(dataclasses.replace(sweep, **changes), digits, finished.path, resume=resume)
    assert str(finished.path) in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.args[0].count(" there, ") == 1  # nothing but what differs
    assert snapshot(finished.path) == before


def test_the_command_shows_what_differs_in_one_line(snapshot, error_line, finished, tmp_path):
    about = finished.identity()
    about["sweep"]["epochs"] = 3
    (finished.path / "sweep.json").write_text(json.dumps(about))
    config = tmp_path / "sweep.toml"
    config.write_text('dataset = "digits"\nseeds = 4\nepochs = 7')
    before = snapshot(finished.path)
    error = error_line("sweep", config, "--out", finished.path)
    assert "sweep.epochs: 3 there, 7 here" in error
    assert "data.train_samples: 300 there, 1442 here" in error
    error = error_line("sweep", "--resume", finished.path)
    assert "data.train_samples: 300 there, 1442 here" in error
    assert "epochs" not in error
    assert snapshot(finished.path) == before
