"""The forward process: what its tables say, how the three predictions relate, and which timesteps a run visits."""

from __future__ import annotations

from itertools import pairwise

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import CONFIG, relative_error, scheduler

from sdlearn.schedule import PREDICTION_TYPES, NoiseSchedule, convert, whole_number

X0, NOISE = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_tables_are_those_of_diffusers_to_the_last_bit(beta_schedule, zero_snr):
    options = CONFIG | {"beta_schedule": beta_schedule, "rescale_betas_zero_snr": zero_snr}
    theirs = diffusers.DDIMScheduler.from_config(options)
    ours = NoiseSchedule(beta_schedule=beta_schedule, rescale_betas_zero_snr=zero_snr)
    assert torch.equal(ours.betas.float(), theirs.betas)
    assert torch.equal(ours.alpha_bar.float(), theirs.alphas_cumprod)


def test_alpha_bar_is_the_product_of_one_minus_beta_and_falls():
    schedule = NoiseSchedule()
    assert torch.allclose(schedule.alpha_bar, torch.cumprod(1 - schedule.betas, 0), rtol=1e-4)
    assert (schedule.alpha_bar.diff() < 0).all()
    assert torch.allclose(schedule.signal**2 + schedule.noise**2, torch.ones(1000, dtype=torch.float64))
    assert torch.allclose(schedule.snr, 1 / schedule.sigma**2)


def test_zero_terminal_snr_ends_in_pure_noise_and_begins_where_it_did():
    plain, rescaled = NoiseSchedule(), NoiseSchedule(rescale_betas_zero_snr=True)
    assert plain.signal[-1] > 0.06  # Stable Diffusion's last timestep still shows the picture
    assert rescaled.signal[-1] == 0
    assert rescaled.alpha_bar[0] == pytest.approx(plain.alpha_bar[0].item(), rel=1e-6)


def test_add_noise_is_diffusers_add_noise():
    for t in (0, 3, 500, 999):
        theirs = scheduler("ddim", NoiseSchedule()).add_noise(X0.float(), NOISE.float(), torch.tensor([t]))
        assert relative_error(NoiseSchedule().add_noise(X0.float(), NOISE.float(), t), theirs) < 1e-6
    one_each = NoiseSchedule().add_noise(X0, NOISE, [3, 500, 999])
    alone = torch.stack([NoiseSchedule().add_noise(X0[k], NOISE[k], t) for k, t in enumerate((3, 500, 999))])
    assert torch.equal(one_each, alone)


def test_whole_numbers_are_not_noised_to_nothing():
    with pytest.raises(TypeError, match="uint8"):
        NoiseSchedule().add_noise(torch.full((1, 3, 4, 4), 200, dtype=torch.uint8), torch.randn(1, 3, 4, 4), 500)


@given(t=st.integers(0, 999), kind=st.sampled_from(PREDICTION_TYPES))
def test_eps_x0_and_v_are_one_fact_in_three_languages(t, kind):
    schedule = NoiseSchedule(prediction_type=kind)
    x = schedule.add_noise(X0, NOISE, t)
    v = schedule.signal[t] * NOISE - schedule.noise[t] * X0
    output = {"epsilon": NOISE, "sample": X0, "v_prediction": v}[kind]
    # Reading x0 from eps divides by the signal, eps from x0 by the noise: 14 times and 34 times the rounding at worst.
    assert torch.allclose(schedule.to_x0(x, output, t), X0, atol=1e-12)
    assert torch.allclose(schedule.to_eps(x, output, t), NOISE, atol=1e-12)
    assert torch.allclose(schedule.to_v(x, output, t), v, atol=1e-12)


@given(signal=st.floats(0.05, 1), noise=st.floats(0.05, 20), kind=st.sampled_from(PREDICTION_TYPES))
def test_conversion_holds_on_any_scale(signal, noise, kind):
    x = signal * X0 + noise * NOISE
    size = (signal**2 + noise**2) ** 0.5
    output = {"epsilon": NOISE, "sample": X0, "v_prediction": (signal * NOISE - noise * X0) / size}[kind]
    x0, eps = convert(x, output, signal, noise, kind)
    assert torch.allclose(x0, X0, atol=1e-9)
    assert torch.allclose(eps, NOISE, atol=1e-9)


def test_v_prediction_is_defined_at_zero_signal_and_noise_prediction_is_not():
    schedule = NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert torch.equal(schedule.to_x0(NOISE, -X0, 999), X0)
    with pytest.raises(ValueError, match="says nothing of x_0"):
        NoiseSchedule(rescale_betas_zero_snr=True).to_x0(NOISE, NOISE, 999)


# -- timesteps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_are_diffusers_for_every_number_of_steps(spacing):
    theirs, ours, too_many = scheduler("ddim", NoiseSchedule(), spacing), NoiseSchedule(), []
    for n in range(2, 1000):
        theirs.set_timesteps(n)
        assert ours.timesteps(n, spacing) == tuple(theirs.timesteps.tolist()[:n]), n
        too_many += [n] if len(theirs.timesteps) > n else []
    # Counting down in floats, trailing spacing sometimes takes one step more than it was asked for, to timestep -1.
    assert too_many[:2] == ([61, 103] if spacing == "trailing" else [])


def test_timesteps_named_in_the_text_books():
    schedule = NoiseSchedule()
    assert schedule.timesteps(50)[:3] == (981, 961, 941) and schedule.timesteps(50)[-1] == 1
    assert schedule.timesteps(30)[0] == 958  # leading never reaches the last timestep
    assert schedule.timesteps(5, "trailing") == (999, 799, 599, 399, 199)
    assert schedule.timesteps(5, "linspace") == (999, 749, 500, 250, 0)


def test_one_linspace_step_starts_from_noise_and_diffusers_from_the_picture():
    theirs = scheduler("ddim", NoiseSchedule(), "linspace")
    theirs.set_timesteps(1)
    assert theirs.timesteps.tolist() == [0]
    assert NoiseSchedule().timesteps(1, "linspace") == (999,)


def test_a_thousand_leading_steps_with_an_offset_would_leave_the_table():
    with pytest.raises(ValueError, match="start at timestep 1000, which was never trained"):
        NoiseSchedule().timesteps(1000)
    theirs = scheduler("ddim", NoiseSchedule())
    theirs.set_timesteps(1000)
    with pytest.raises(IndexError):
        theirs.step(NOISE, theirs.timesteps[0], NOISE)
    assert NoiseSchedule(steps_offset=0).timesteps(1000)[0] == 999


@given(n=st.integers(1, 999), spacing=st.sampled_from(["leading", "trailing", "linspace"]))
def test_timesteps_fall_strictly_within_the_trained_range(n, spacing):
    timesteps = NoiseSchedule().timesteps(n, spacing)
    assert len(timesteps) == n
    assert timesteps[0] <= 999 and timesteps[-1] >= 0
    assert all(a > b for a, b in pairwise(timesteps))


# -- configs and bad input -------------------------------------------------------------------------------------------


def test_the_offset_of_a_config_is_what_the_pipeline_makes_of_it():
    bare = {k: v for k, v in CONFIG.items() if k != "steps_offset"}
    assert NoiseSchedule.from_config(bare).steps_offset == 1


def test_a_spacing_nobody_chose_is_left_to_the_sampler():
    # SD 1.x files name no spacing, and each diffusers class then takes its own; a chosen one holds for all.
    unsaid = diffusers.PNDMScheduler.from_config(CONFIG).config
    chosen = diffusers.PNDMScheduler.from_config(CONFIG | {"timestep_spacing": "trailing"}).config
    assert NoiseSchedule.from_config(dict(unsaid)).timestep_spacing is None
    assert NoiseSchedule.from_config(dict(chosen)).timestep_spacing == "trailing"


def test_trained_betas_are_taken_as_they_are():
    schedule = NoiseSchedule.from_config(CONFIG | {"trained_betas": [0.1, 0.2, 0.3]})
    assert schedule.num_train_timesteps == 3
    assert schedule.betas.tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseSchedule(prediction_type="noise"), "Unknown prediction_type 'noise'; choose one of epsilon"),
        (lambda: NoiseSchedule(timestep_spacing="even"), "Unknown timestep_spacing 'even'; choose one of leading"),
        (lambda: NoiseSchedule(beta_schedule="cosine"), "Unknown beta_schedule 'cosine'; choose one of linear"),
        (lambda: NoiseSchedule(beta_end=float("nan")), "betas"),
        (lambda: NoiseSchedule(beta_end=2), "betas"),
        (lambda: NoiseSchedule(trained_betas=(0.1, 0.2)), "2 trained_betas for num_train_timesteps=1000"),
        (lambda: NoiseSchedule(num_train_timesteps=-1), "num_train_timesteps"),
        (lambda: NoiseSchedule(num_train_timesteps=1.5), "num_train_timesteps"),
        (lambda: NoiseSchedule(num_train_timesteps="10"), "num_train_timesteps"),
        (lambda: NoiseSchedule().timesteps(20, ""), "Unknown spacing ''"),
        (lambda: NoiseSchedule().timesteps(20, "even"), "Unknown spacing 'even'; choose one of leading"),
        (lambda: NoiseSchedule().timesteps(0), "num_inference_steps must be a whole number from 1 to 1000, not 0"),
        (lambda: NoiseSchedule().timesteps(2.5), "whole number from 1 to 1000, not 2.5"),
        (lambda: NoiseSchedule().timesteps(1001), "whole number from 1 to 1000, not 1001"),
        (lambda: NoiseSchedule().add_noise(X0, NOISE, 1000), "timestep 1000 is outside 0..999"),
        (lambda: NoiseSchedule().add_noise(X0, NOISE, 10.5), "A training timestep is a whole number, not 10.5"),
        (lambda: NoiseSchedule().add_noise(X0, NOISE, [1, 2]), "2 timesteps for a batch of 3"),
    ],
)
def test_bad_schedules_say_what_to_choose(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@given(st.one_of(st.floats(), st.text(), st.booleans(), st.none(), st.integers()))
def test_a_whole_number_is_itself_or_an_error_that_names_it(value):
    try:
        number = whole_number("steps", value, 1, 10)
    except ValueError as error:
        assert repr(value) in str(error)
        assert not (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10)
    else:
        assert number == value and type(number) is int
