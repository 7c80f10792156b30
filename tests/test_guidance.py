"""Guidance as formulas; what it does to a run is test_sampling.py's."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from hypothesis import given
from hypothesis import strategies as st
from reference import relative_error

from sdlearn import guidance
from sdlearn.schedule import Level


@given(scale=st.floats(-5, 20))
def test_guided_predictions_lie_on_one_line(scale):
    uncond, cond = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guided = guidance.guide(uncond, cond, scale)
    assert torch.allclose(guided - uncond, scale * (cond - uncond))
    # The paper counts from the conditional prediction: (1 + w) cond - w uncond (Ho & Salimans 2022, eq. 6).
    assert torch.allclose(guided, scale * cond - (scale - 1) * uncond)


def test_rescale_is_diffusers_rescale_noise_cfg():
    guided, cond = 3 * torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 0.3, 1.0):
        ours, theirs = guidance.rescale(guided, cond, share), rescale_noise_cfg(guided, cond, share)
        assert relative_error(ours, theirs) < 1e-6
    full = guidance.rescale(guided, cond, 1.0)
    assert torch.allclose(full.std(dim=(1, 2, 3)), cond.std(dim=(1, 2, 3)))


@pytest.mark.parametrize(("sigma", "scale"), [(0.4, 1), (0.5, 1), (0.6, 7), (5, 7), (5.1, 1)])
def test_an_interval_guides_above_its_low_end_and_up_to_its_high_one(sigma, scale):
    assert guidance.interval(7.0, 0.5, 5.0)(Level(0, 1.0, sigma)) == scale
