"""Every sampler equals its diffusers scheduler, converges at its order, and is related to the others as the papers say.

The network here is a formula (see toy.py), so a run takes milliseconds and the truth is known. test_pipelines.py
repeats the comparison with real networks, text and guidance.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import STEPS, TOLERANCE, assert_stated, relative_error, scheduler
from toy import gaussian_error, network, order, run, run_scheduler

from sdlearn.samplers import DISTILLED, SAMPLERS, get_sampler, karras_sigmas, lms_weights, noise_split
from sdlearn.schedule import SPACINGS, Level, NoiseSchedule
from sdlearn.show import exact

NOISE = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def ours(name: str, schedule: NoiseSchedule, n: int, spacing: str | None = None, **options) -> torch.Tensor:
    return steps_of(name, schedule, n, spacing, **options)[-1].latents


def steps_of(name: str, schedule: NoiseSchedule, n: int, spacing: str | None = None, **options) -> list:
    plan, generator = SAMPLERS[name].plan(schedule, n, spacing=spacing, **options), torch.Generator().manual_seed(1)
    fresh = [torch.randn(NOISE.shape, generator=generator) for _ in range(len(plan))]
    return run(plan.start(NOISE * plan.init_scale, fresh), network(schedule), schedule.prediction_type)


def one_step(name: str, levels, schedule: NoiseSchedule) -> torch.Tensor:
    return run(SAMPLERS[name].solver(NOISE, levels), network(schedule), schedule.prediction_type)[-1].latents


def theirs(name: str, schedule: NoiseSchedule, n: int, spacing: str | None = None, **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return run_scheduler(scheduler(name, schedule, spacing), network(schedule), NOISE, n, generator, **options)


def steps_by_ratio(name: str, spacing: str, n: int) -> bool:
    """Whether diffusers' DDIM and PNDM land on the timestep that they ask the network at next.

    They step to t - 1000 // n, which is the next of the list only for "leading", and for "trailing" if n divides 1000.
    """
    return name not in ("ddim", "plms") or spacing == "leading" or (spacing == "trailing" and 1000 % n == 0)


# -- equal to diffusers ----------------------------------------------------------------------------------------------


@cache
def error(name: str, spacing: str, prediction_type: str, n: int) -> float:
    schedule = NoiseSchedule(prediction_type=prediction_type)
    return relative_error(ours(name, schedule, n, spacing), theirs(name, schedule, n, spacing))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_is_its_diffusers_scheduler(name, spacing, prediction_type):
    for n in STEPS:
        if steps_by_ratio(name, spacing, n):
            assert error(name, spacing, prediction_type, n) <= TOLERANCE, n


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_worst_error_is_the_one_on_the_page(name):
    cases = itertools.product(SPACINGS, ("epsilon", "v_prediction"), STEPS)
    worst = max(error(name, *case) for case in cases if steps_by_ratio(name, case[0], case[2]))
    assert_stated(worst, name, "Formula", within=5)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "heun", "lms", "dpm++2m"])
def test_a_network_that_predicts_the_picture_gives_the_same_run(name):
    schedule = NoiseSchedule(prediction_type="sample")
    assert relative_error(ours(name, schedule, 20), theirs(name, schedule, 20)) <= TOLERANCE


@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "euler_ancestral", "dpm++2m", "euler_karras"])
def test_runs_from_zero_terminal_snr_equal_diffusers(name):
    schedule = NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    for n in (10, 20, 50):
        error = relative_error(ours(name, schedule, n), theirs(name, schedule, n))
        assert error <= TOLERANCE, (n, error)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_with_eta_is_diffusers_ddim_with_eta(eta):
    schedule = NoiseSchedule()
    assert relative_error(ours("ddim", schedule, 20, eta=eta), theirs("ddim", schedule, 20, eta=eta)) <= TOLERANCE


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_is_asked_at_diffusers_timesteps(name):
    schedule = NoiseSchedule()
    for spacing in SPACINGS:
        reference = scheduler(name, schedule, spacing)
        reference.set_timesteps(20)
        plan = SAMPLERS[name].plan(schedule, 20, spacing=spacing)
        asked = [step.timestep for step in steps_of(name, schedule, 20, spacing)]
        assert np.allclose(asked, reference.timesteps.numpy(), rtol=1e-5, atol=1e-3)
        assert plan.init_scale == pytest.approx(float(reference.init_noise_sigma), rel=1e-6)


# -- the traps: where diffusers is not equal to itself, and what is done instead --------------------------------------


@pytest.mark.parametrize("name", ["ddim", "plms"])
@pytest.mark.parametrize(("spacing", "n"), [("trailing", 30), ("linspace", 20)])
def test_diffusers_ddim_lands_beside_the_next_timestep_and_ours_on_it(name, spacing, n):
    schedule, net = NoiseSchedule(), network(NoiseSchedule())
    assert relative_error(ours(name, schedule, n, spacing), theirs(name, schedule, n, spacing)) > 1e-3

    # One step of theirs is DDIM's step to t - 1000 // n, and not to the timestep that the network is asked at next.
    timesteps = schedule.timesteps(n, spacing)
    k = max(k for k in range(n - 1) if 0 <= timesteps[k] - 1000 // n != timesteps[k + 1])
    reference = scheduler("ddim", schedule, spacing)
    reference.set_timesteps(n)
    x = reference.step(net(NOISE, timesteps[k]), timesteps[k], NOISE).prev_sample
    for landing, same in ((timesteps[k] - 1000 // n, True), (timesteps[k + 1], False)):
        levels = tuple(Level(t, schedule.signal[t].item(), schedule.noise[t].item()) for t in (timesteps[k], landing))
        error = relative_error(one_step("ddim", levels, schedule), x)
        assert (error < TOLERANCE) == same


@pytest.mark.parametrize("name", ["ddim", "euler", "lms", "plms"])
def test_one_linspace_step_begins_at_pure_noise(name):
    schedule = NoiseSchedule()
    assert SAMPLERS[name].plan(schedule, 1, spacing="linspace").levels[0].timestep == 999
    reference = scheduler(name, schedule, "linspace")
    reference.set_timesteps(1)
    assert reference.timesteps.tolist() == [0]


def test_the_first_latents_are_smaller_than_the_forward_process_makes_them_unless_leading():
    # diffusers' init_noise_sigma, kept because pictures depend on it: sigma_max, or the true size for "leading".
    schedule = NoiseSchedule()
    for spacing in SPACINGS:
        plan = SAMPLERS["euler"].plan(schedule, 20, spacing=spacing)
        true_size = (plan.levels[0].sigma ** 2 + 1) ** 0.5
        assert (plan.init_scale == pytest.approx(true_size, rel=1e-6)) == (spacing == "leading")
    assert SAMPLERS["euler"].plan(schedule, 20).init_scale == pytest.approx(14.6146, abs=1e-4)
    assert SAMPLERS["euler"].plan(schedule, 20, spacing="leading").init_scale == pytest.approx(11.0736, abs=1e-4)


def test_spacing_is_each_samplers_own_unless_the_model_or_the_caller_names_one():
    plain, trailing = NoiseSchedule(), NoiseSchedule(timestep_spacing="trailing")
    assert SAMPLERS["ddim"].plan(plain, 20).levels[0].timestep == 951
    assert SAMPLERS["euler"].plan(plain, 20).levels[0].timestep == 999
    assert SAMPLERS["euler"].plan(plain, 20).levels[1].timestep == pytest.approx(946.42, abs=0.01)
    assert SAMPLERS["dpm++2m"].plan(plain, 20).levels[1].timestep == 949
    assert SAMPLERS["ddim"].plan(trailing, 20).levels[0].timestep == 999
    assert SAMPLERS["ddim"].plan(trailing, 20, spacing="leading").levels[0].timestep == 951


def test_stable_diffusion_ends_ddim_at_its_first_timestep_and_the_sigma_samplers_at_no_noise():
    schedule = NoiseSchedule()
    for name in ("ddim", "plms"):
        assert SAMPLERS[name].plan(schedule, 20).levels[-1].noise == pytest.approx(0.00085**0.5, rel=1e-4)
        assert SAMPLERS[name].plan(replace(schedule, set_alpha_to_one=True), 20).levels[-1].noise == 0
    for name in set(SAMPLERS) - {"ddim", "plms"}:
        assert SAMPLERS[name].plan(schedule, 20).levels[-1].noise == 0


@pytest.mark.parametrize(("name", "calls"), [("ddim", 20), ("plms", 21), ("heun", 39), ("lms", 20), ("dpm++2m", 20)])
def test_network_calls_of_twenty_steps(name, calls):
    assert len(steps_of(name, NoiseSchedule(), 20)) == calls


def test_karras_levels_are_taken_from_the_run_by_euler_and_from_the_whole_table_by_dpm():
    schedule = NoiseSchedule()
    euler, dpm = (SAMPLERS[f"{name}_karras"].plan(schedule, 20, spacing="leading") for name in ("euler", "dpm++2m"))
    assert euler.levels[0].sigma == pytest.approx(schedule.sigma[951].item())
    assert dpm.levels[0].sigma == pytest.approx(schedule.sigma[999].item())
    assert any(t % 1 for t in euler.timesteps) and not any(t % 1 for t in dpm.timesteps)


def test_pndm_heun_and_lms_know_no_zero_terminal_snr_in_diffusers_and_do_here():
    schedule = NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    assert scheduler("ddim", schedule).alphas_cumprod[-1] == 0
    for name in ("plms", "heun", "lms"):
        assert scheduler(name, schedule).alphas_cumprod[-1] > 0
        # What they should agree with is known: at this many steps every solver has nearly arrived at the same place.
        assert relative_error(ours(name, schedule, 500), ours("ddim", schedule, 500)) < 0.03


def test_noise_prediction_at_zero_terminal_snr_is_an_error_for_every_sampler():
    schedule = NoiseSchedule(rescale_betas_zero_snr=True)
    for sampler in SAMPLERS.values():
        with pytest.raises(ValueError, match="needs a model with prediction_type='v_prediction', or spacing='leading'"):
            sampler.plan(schedule, 20, spacing="trailing")
    assert SAMPLERS["ddim"].plan(schedule, 20, spacing="leading").levels[0].signal > 0


# -- closed forms ----------------------------------------------------------------------------------------------------

# The order measured between 64 and 128 steps. PLMS mixes outputs as if steps were even, and these are not: order 2.
# LMS starts with one Euler step, whose error is a lower order but small; 4 is its order in mid-run.
ORDERS = {"ddim": (0.9, 1.1), "euler": (0.9, 1.1), "heun": (1.9, 2.1), "dpm++2m": (1.9, 2.1), "plms": (1.9, 2.2),
          "lms": (3.0, 4.0)}  # fmt: skip


@pytest.mark.parametrize("name", ORDERS)
def test_solver_converges_at_its_order_on_gaussian_data(name):
    low, high = ORDERS[name]
    assert low <= order(name) <= high
    assert gaussian_error(name, 128) < 0.02


def test_higher_order_pays_at_twenty_steps():
    error = {name: gaussian_error(name, 20) for name in ORDERS}
    assert max(error["heun"], error["lms"], error["plms"], error["dpm++2m"]) < 0.2 * error["ddim"]


def test_the_stochastic_sampler_draws_the_data_distribution():
    # 4000 numbers from N(0, 0.5^2) by DDPM: the spread is right to within sampling error.
    schedule, generator = NoiseSchedule(), torch.Generator().manual_seed(0)
    noise, *fresh = torch.randn(201, 4000, generator=generator)
    x = run(SAMPLERS["ddpm"].plan(schedule, 200).start(noise, fresh), network(schedule, mean=0.0))[-1].latents
    assert x.std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(x.mean().item()) < 0.03


# -- one method under several names ------------------------------------------------------------------------------------


@given(
    sigma=st.floats(0.1, 20),
    share=st.floats(0.05, 0.95),
    eta=st.floats(0, 1),
)
def test_euler_ancestral_is_ddim_with_eta_1_in_the_other_scale(sigma, share, eta):
    def level(s, unit):
        return Level(0, 1 / np.hypot(1, s), s / np.hypot(1, s)) if unit else Level(0, 1.0, s)

    for unit, total in ((True, share * sigma / np.hypot(1, share * sigma)), (False, share * sigma)):
        kept, fresh = noise_split(level(sigma, unit), level(share * sigma, unit), eta)
        # Both divide the next level's noise in the same proportion, here in units of that noise.
        assert fresh / total == pytest.approx(eta * np.sqrt(1 - share**2), rel=1e-9)
        assert kept**2 + fresh**2 == pytest.approx(total**2, rel=1e-9)
    sigma_up = share * sigma * np.sqrt(1 - share**2)  # k-diffusion's get_ancestral_step
    assert noise_split(level(sigma, False), level(share * sigma, False), 1.0)[1] == pytest.approx(sigma_up)


def test_ddim_with_eta_1_is_ddpm():
    schedule = replace(NoiseSchedule(), set_alpha_to_one=True)
    for spacing in SPACINGS:
        assert relative_error(ours("ddim", schedule, 20, spacing, eta=1.0), ours("ddpm", schedule, 20, spacing)) < 1e-6


def test_ddim_is_euler_on_the_same_timesteps():
    # Leading timesteps are whole, so both visit the same levels; x differs by the factor between the scales alone.
    schedule = replace(NoiseSchedule(), set_alpha_to_one=True)
    assert relative_error(ours("ddim", schedule, 20, "leading"), ours("euler", schedule, 20, "leading")) < 1e-6


def test_first_order_dpm_solver_is_ddim():
    # Without a history, DPM-Solver++ takes DDIM's step in another spelling.
    for pair in pairwise(SAMPLERS["dpm++2m"].plan(NoiseSchedule(), 20).levels):
        ddim, dpm = (one_step(name, pair, NoiseSchedule()) for name in ("ddim", "dpm++2m"))
        assert relative_error(dpm, ddim) < 1e-6


def test_plms_from_pure_noise_takes_ddims_first_step():
    schedule = NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    first = SAMPLERS["plms"].plan(schedule, 20).levels[:2]
    assert first[0].signal == 0
    plms, ddim = (one_step(name, first, schedule) for name in ("plms", "ddim"))
    assert torch.equal(plms, ddim)


@given(st.lists(st.floats(0.03, 15), min_size=2, max_size=5, unique=True).filter(lambda s: np.ptp(s) > 0.1))
def test_lms_weights_integrate_every_polynomial_through_the_nodes(sigmas):
    *nodes, end = sorted(sigmas, reverse=True)
    weights = lms_weights(tuple(nodes), end)
    for power in range(len(nodes)):
        exact = (end ** (power + 1) - nodes[0] ** (power + 1)) / (power + 1)
        terms = [w * node**power for w, node in zip(weights, nodes, strict=True)]
        assert sum(terms) == pytest.approx(exact, rel=1e-6, abs=1e-6 * max(map(abs, terms)))


def test_lms_weights_are_what_quadrature_finds():
    nodes, end = (10.0, 12.0, 13.5, 14.6), 8.5
    for j, weight in enumerate(lms_weights(nodes, end)):
        others = nodes[:j] + nodes[j + 1 :]

        def basis(s, others=others, node=nodes[j]):
            return np.prod([(s - o) / (node - o) for o in others])

        assert weight == pytest.approx(scipy.integrate.quad(basis, nodes[0], end)[0], rel=1e-9)


@given(low=st.floats(0.01, 1), high=st.floats(2, 100), n=st.integers(2, 100))
def test_karras_sigmas_go_from_end_to_end_evenly_in_the_seventh_root(low, high, n):
    sigmas = karras_sigmas(low, high, n)
    assert sigmas[0] == pytest.approx(high) and sigmas[-1] == pytest.approx(low)
    assert np.allclose(np.diff(sigmas ** (1 / 7)), (low ** (1 / 7) - high ** (1 / 7)) / (n - 1))


# -- plans -------------------------------------------------------------------------------------------------------------


@given(
    name=st.sampled_from(sorted(SAMPLERS)),
    n=st.integers(1, 200),
    spacing=st.sampled_from(SPACINGS),
    data=st.data(),
)
def test_noise_never_rises_along_a_plan_and_a_later_start_is_a_tail_of_it(name, n, spacing, data):
    sampler, schedule = SAMPLERS[name], NoiseSchedule()
    n = min(n, DISTILLED) if name == "lcm" else n
    plan = sampler.plan(schedule, n, spacing=spacing)
    assert all(a.sigma >= b.sigma for a, b in pairwise(plan.levels)) and len(set(plan.levels)) == n + 1
    start = data.draw(st.integers(0, n - 1))
    tail = sampler.plan(schedule, n, spacing=spacing, start_step=start)
    assert tail.levels == plan.levels[start:] and len(tail) == n - start


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: get_sampler("dpm"), r"Unknown sampler 'dpm'; choose one of ddpm, ddim, plms, .*dpm\+\+2m_karras"),
        (lambda s: SAMPLERS["lcm"].plan(s, 51), "num_inference_steps must be a whole number from 1 to 50, not 51"),
        (lambda s: SAMPLERS["ddim"].plan(s, 20, eta=1.5), "eta must be a finite number from 0 to 1, not 1.5"),
        (lambda s: SAMPLERS["euler"].plan(s, 20, eta=0.5), "eta belongs to the sampler 'ddim'; 'euler' has no such"),
        (
            lambda s: SAMPLERS["ddim"].plan(s, 20, start_step=20),
            "start_step must be a whole number from 0 to 19, not 20",
        ),
        (lambda s: SAMPLERS["ddim"].plan(s, 20, start_step=1.5), "start_step must be a whole number from 0 to 19"),
        (lambda s: SAMPLERS["dpm++2m"].plan(s, 1000), "at most 999 steps with linspace spacing"),
        (lambda s: SAMPLERS["ddim"].plan(s, 20, spacing=""), "Unknown spacing ''"),
        (lambda s: get_sampler(["ddim"]), "Unknown sampler"),
        (lambda s: SAMPLERS["ddim"].plan(s, 20, spacing="even"), "Unknown spacing 'even'; choose one of leading"),
    ],
)
def test_bad_plans_say_what_to_choose(make, message):
    with pytest.raises(ValueError, match=message):
        make(NoiseSchedule())


# -- the problem on a line that the lessons measure solvers on -------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0, 5.0, 14.0])
@pytest.mark.parametrize("unit_size", [False, True])
def test_the_exact_path_has_the_ideal_prediction_as_its_slope(sigma, unit_size):
    before, here, after = exact.levels(2, unit_size, 1.0001 * sigma, 0.9999 * sigma)
    points = {level: exact.path(exact.SHARES, level) for level in (before, here, after)}
    torch.testing.assert_close(exact.share(points[here], here), exact.SHARES)
    slope = (points[before] / before.signal - points[after] / after.signal) / (before.sigma - after.sigma)
    torch.testing.assert_close(slope, exact.ask(points[here], here), rtol=1e-4, atol=1e-5)


def test_on_the_exact_problem_many_steps_miss_by_little_on_both_scales():
    for name, unit_size in (("ddim", True), ("heun", False)):
        few, many = (exact.miss(SAMPLERS[name].solver, exact.levels(n, unit_size)).abs().median() for n in (20, 500))
        assert many < min(0.002, few / 10)
    states = exact.walk(SAMPLERS["euler"].solver, exact.levels(7), exact.path(exact.SHARES, exact.levels(7)[0]))
    assert len(states) == 8 and states[-1].shape == exact.SHARES.shape
    x, y = exact.curve(exact.levels(7), [state[:1] for state in states])
    assert x == sorted(x) and y[-1] == pytest.approx(states[-1][0].item(), abs=0.01)  # at low noise the sizes agree
