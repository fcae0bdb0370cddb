"""Options that cannot be, alone or together, are refused in one line."""

import pytest
from trained_sessions import job

import spnb
from spnb.job.options import OptionError


def test_options_that_training_does_not_take_are_refused():
    for options, message in (
        ({"enable_evaluation": True, "learning_rate": 0.001}, "is for inference"),
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm': use adam, adamw"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"schedule": "1f2b"}, "unknown schedule"),
    ):
        with pytest.raises(OptionError, match=message):
            spnb.plan(job(**options), training=True)
    with pytest.raises(OptionError, match="num_epochs is for training"):
        job(num_epochs=2, enable_evaluation=True)
