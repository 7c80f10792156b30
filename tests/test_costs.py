"""What a model costs by its shapes: counted as a closed form counts it, and as the page on checkpoints states it."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from sdlearn import denoise
from sdlearn.exercises.real_checkpoints import labelled, speaking_v
from sdlearn.hub import costs
from sdlearn.hub.architectures import random_model
from sdlearn.tools import bench

PAGE = (Path(__file__).parents[1] / "notebooks" / "checkpoints.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=["sd-1.4", "sd-2.1"])
def real(request):
    return random_model(request.param, device="meta", dtype="float16")


def meta(*shape):
    return torch.empty(*shape, device="meta")


# -- the counting ------------------------------------------------------------------------------------------------------


def test_a_matrix_product_costs_what_its_sizes_say():
    a, b = meta(30, 40), meta(40, 50)
    cost = costs.count(lambda: a @ b)
    assert cost == costs.Cost(flops=2 * 30 * 40 * 50, peak=4 * 30 * 50, traffic=4 * (1200 + 2000 + 1500), operations=1)


def test_the_peak_is_of_what_is_held_at_one_time():
    x = meta(1000)  # 4000 bytes, which were there before

    def chain():
        y = x + 1
        y = y + 1  # both are held while the second is made
        return y + 1

    assert costs.count(chain).peak == 2 * 4000
    assert costs.count(lambda: (x + 1, x + 2, x + 3)).peak == 3 * 4000


def test_looking_at_a_tensor_otherwise_costs_nothing():
    x = meta(6, 4)
    assert costs.count(lambda: x.T.reshape(4, 2, 3)[0]) == costs.Cost(0, 0, 0, 0)


def test_attention_in_blocks_does_the_same_arithmetic_without_the_matrix():
    q, k, v = (meta(2, 8, 64, 40) for _ in range(3))
    plain, fused = (
        costs.count(lambda: scaled_dot_product_attention(q, k, v), plain_attention=plain) for plain in (True, False)
    )
    assert plain.flops == fused.flops == 2 * 2 * (2 * 8 * 64 * 64 * 40)
    assert fused.peak == 4 * q.numel() and plain.peak >= 4 * 2 * 8 * 64 * 64
    assert fused.traffic == 4 * 4 * q.numel()


def test_layers_cost_what_convolution_and_matrix_product_cost():
    with torch.device("meta"):
        layer = nn.Conv2d(16, 32, 3, padding=1)
    assert costs.count(lambda: layer(meta(2, 16, 8, 8))).flops == 2 * 2 * 32 * 16 * 9 * 8 * 8


# -- of models ---------------------------------------------------------------------------------------------------------


def test_shapes_are_those_of_the_loaded_model(emoji, random_sd):
    for sd in (emoji, random_sd):
        twin = costs.shapes(sd, "float16")
        assert costs.parameters(twin) == costs.parameters(sd)
        assert twin.dtype == torch.float16 and twin.vae.dtype == torch.float32 and twin.device.type == "meta"
        assert costs.shapes(sd).dtype == sd.dtype
    with pytest.raises(TypeError, match="must be a model"):
        costs.shapes("emoji")


def test_a_step_is_counted_as_the_benchmark_counts_it(real):
    assert costs.step(real).flops == bench.unet_flops(real, 2, real.latent_shape())
    assert costs.step(real, plain_attention=True).flops == costs.step(real).flops


def test_activations_grow_with_the_pictures_and_weights_do_not(real):
    needs = costs.memory(real)
    assert costs.step(real, 3).peak == pytest.approx(3 * needs.step, rel=1e-6)
    assert costs.decoding(real, 3).peak == 3 * needs.decoding
    four, one = needs.of(4), needs.of(1)
    assert four["activations"] == 4 * one["activations"] == 4 * needs.each
    assert {part: four[part] for part in costs.PARTS} == costs.weights(real)
    low = needs.of(4, low_memory=True)
    assert low["UNet"] < 0.05 * one["UNet"] and low["activations"] < four["activations"]


def test_the_decoder_holds_three_tensors_of_full_size(real):
    """The last level but one hands 256 channels at the picture's full size to the last: input, output and a copy."""
    widest = 4 * 256 * real.width * real.height
    assert costs.decoding(real).peak == pytest.approx(3 * widest, rel=0.01)


def test_a_unets_parameters_are_each_of_one_kind(real, emoji):
    for sd in (real, emoji):
        kinds = costs.kinds(sd.unet)
        assert sum(kinds.values()) == costs.parameters(sd)["UNet"] and min(kinds.values()) > 0
        assert max(kinds, key=kinds.get) == "convolution"


def test_a_loaded_model_is_counted_without_touching_it(random_sd):
    before = random_sd.dtype, random_sd.device
    assert costs.memory(random_sd).weights == costs.weights(random_sd)
    assert (random_sd.dtype, random_sd.device) == before


def test_the_page_on_checkpoints_states_the_memory_of_a_run():
    needs = [costs.memory(random_model(name, device="meta", dtype="float16")) for name in ("sd-1.4", "sd-2.1")]
    each = [n.each / costs.GIB for n in needs]
    assert "(the decoder's activations) | {:.2f} GiB | {:.1f} GiB |".format(*each) in PAGE
    for name, low in (("**One picture**", False), ("One picture, `low_memory=True`", True)):
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")]
        stated = re.findall(r"([\d.]+) GiB", row)
        assert stated == [f"{sum(n.of(low_memory=low).values()) / costs.GIB:.1f}" for n in needs]


# -- a network that says v ---------------------------------------------------------------------------------------------


def last_latents(sd):
    *_, last = denoise(sd, "a cat", seed=1, num_inference_steps=3, guidance_scale=2.0, progress=False)
    return last.latents


@pytest.mark.parametrize("name", ["emoji", "random_sd"])  # which say eps and v by themselves
def test_a_network_that_says_v_draws_the_same_picture(name, request):
    sd = request.getfixturevalue(name)
    expected = last_latents(sd)
    assert (last_latents(speaking_v(sd)) - expected).norm() < 1e-4 * expected.norm()


def test_under_the_wrong_label_it_draws_another(emoji):
    with pytest.warns(UserWarning, match="as large as"):
        wrong = last_latents(labelled(speaking_v(emoji), "epsilon"))
    right = last_latents(emoji)
    assert (wrong - right).norm() > right.norm()
