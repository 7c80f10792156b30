"""The benchmark: it times the same work on both sides, and its numbers are what they say they are."""

import statistics
from dataclasses import replace

import pytest
import torch

from sdlearn.hub.architectures import random_model
from sdlearn.tools import bench
from sdlearn.tools.cli import main

QUICK = {"num_inference_steps": 3, "repeats": 2}


@pytest.fixture(scope="module")
def report(emoji):
    return bench.bench(model=emoji, fast=True, **QUICK)


def test_both_draw_the_same_picture(report):
    assert report.difference <= 1


@pytest.mark.parametrize("sampler", ["plms", "euler", "heun", "lms", "dpm++2m", "euler_karras", "dpm++2m_karras"])
def test_every_sampler_meets_its_own_scheduler(random_sd, sampler):
    report = bench.bench(model=random_sd, sampler=sampler, repeats=1, num_inference_steps=4, guidance_scale=2.0)
    assert report.difference <= 1


def test_half_precision_is_compared_with_a_half_precision_pipeline(random_folder):
    import sdlearn

    sd = sdlearn.load(random_folder, "cpu", "float16")
    pipe = bench.pipeline(sd, "ddim")
    assert (pipe.vae.dtype, sd.vae.dtype) == (torch.float16, torch.float32)
    assert pipe.unet is sd.unet


def test_every_contestant_runs_equally_often_and_diffusers_is_the_measure(report):
    assert [timing.name for timing in report.pictures] == ["sdlearn", "fast", "diffusers"]
    assert all(len(timing.seconds) == QUICK["repeats"] for timing in (*report.pictures, *report.loop))
    ours, _, theirs = report.pictures
    assert report.ratios("sdlearn") == [a / b for a, b in zip(ours.seconds, theirs.seconds, strict=True)]


def test_the_report_states_median_and_spread(report):
    lines = str(report).splitlines()
    ratios = report.ratios("sdlearn")
    (line,) = [line for line in lines if line.startswith("sdlearn / diffusers")]
    assert f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})" in line
    assert any("of a large matrix product here" in line for line in lines)
    assert "emoji" in lines[1] and "3 ddim steps" in lines[1]


def test_a_slow_model_has_a_speed_too(report):
    slow = replace(report, loop=(bench.Timing("sdlearn", (240.0,)),), num_steps=1, step_flops=1.6e12)
    assert "sdlearn loop         0.00417 steps/s, 6.7 GFLOP/s" in str(slow)


@pytest.mark.parametrize(("name", "gflop"), [("sd-1.4", 803.27), ("sd-2.1-base", 804.26), ("sd-2.1", 2149.11)])
def test_arithmetic_is_counted_on_the_real_shapes(name, gflop):
    """2 x multiply-adds of one UNet call, attention's products included (the often quoted 677 leaves them out)."""
    sd = random_model(name, device="meta")
    assert bench.unet_flops(sd, 1, sd.latent_shape()) / 1e9 == pytest.approx(gflop, abs=0.01)
    assert bench.unet_flops(sd, 2, sd.latent_shape()) == 2 * bench.unet_flops(sd, 1, sd.latent_shape())


def test_guidance_doubles_the_arithmetic_of_a_step(random_sd):
    plain, guided = (bench.bench(model=random_sd, guidance_scale=scale, **QUICK) for scale in (1.0, 3.0))
    assert guided.step_flops == 2 * plain.step_flops


def test_rounds_are_interleaved_after_a_warm_up():
    order = []
    runs = {name: (lambda name=name: order.append(name) or name) for name in "abc"}
    timings, results = bench.interleave(runs, 2, torch.device("cpu"))
    assert "".join(order) == "abc" + "abc" + "cba"
    assert results == {"a": "a", "b": "b", "c": "c"}
    assert [timing.name for timing in timings] == ["a", "b", "c"]


def test_the_matrix_product_is_no_slower_than_the_network(report):
    loop = report.loop[0]
    assert report.peak_flops > report.num_steps / loop.median * report.step_flops


def test_nothing_to_measure_is_an_error(emoji):
    with pytest.raises(ValueError, match="at least 1"):
        bench.bench(model=emoji, repeats=0)


def test_bench_prints_its_report(random_folder, capsys):
    assert main(["bench", "--model", str(random_folder), "--device", "cpu", "--steps", "2", "--repeats", "1"]) == 0
    assert "sdlearn / diffusers" in capsys.readouterr().out


def test_random_weights_are_made_as_the_models_options_say(emoji, monkeypatch):
    asked = {}
    monkeypatch.setattr(bench, "random_model", lambda **options: asked.update(options) or emoji)
    model = {"name": "sd-1.4", "device": "cpu", "dtype": None, "low_memory": True}
    bench.bench(model=model, random_weights=True, repeats=1, num_inference_steps=2)
    assert asked == model


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_memory_of_a_gpu_is_told(random_folder):
    import sdlearn

    report = bench.bench(model=sdlearn.load(random_folder, "cuda"), fast=True, **QUICK)
    assert all(timing.peak_bytes > 0 for timing in report.pictures)
    assert "peak " in str(report)
