"""Recorded shares are what diffusers' attention weighs its values with; swapping them is all that swapping does."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor

import sdlearn
from sdlearn import attention, text
from sdlearn.pictures import to_tensor

PROMPT = "a glossy cat and a dog"
RUN = {"num_inference_steps": 3, "guidance_scale": 4.0, "progress": False}


def draw(sd, prompt=PROMPT, seeds=(1,), **options):
    return to_tensor(sdlearn.text_to_image(sd, prompt, seeds=list(seeds), **RUN | options))


@pytest.fixture(params=["emoji", "random_sd"])
def sd(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def drawn(emoji):
    """Two pictures of the shipped model with their maps."""
    with attention.record(emoji, pictures=2) as maps:
        pixels = draw(emoji, seeds=(1, 2))
    return pixels, maps


def pipeline(sd):
    scheduler = DDIMScheduler.from_pretrained(sd.path, subfolder="scheduler", clip_sample=False)
    parts = sd.vae, sd.text_encoder, sd.tokenizer, sd.unet, scheduler
    pipe = StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# -- what is recorded --------------------------------------------------------------------------------------------------


def test_shares_add_up_to_one_over_the_tokens_for_every_picture_head_layer_step_and_place(sd):
    with attention.record(sd, pictures=2) as maps:
        draw(sd, seeds=(1, 2))
    assert maps.layers.keys() == {
        name.removesuffix(".attn2") for name, _ in sd.unet.named_modules() if name.endswith(".attn2")
    }
    for steps in maps.layers.values():
        assert len(steps) == RUN["num_inference_steps"]
        for shares in steps:
            assert shares.shape[0] == 2 and shares.shape[-1] == sd.tokenizer.model_max_length
            assert shares.min() >= 0 and torch.allclose(shares.sum(-1), torch.ones(()), atol=1e-5)


@torch.no_grad()
def test_values_weighed_with_the_shares_are_what_diffusers_attention_returns(sd):
    states = text.encode_prompt(sd, ["", PROMPT])
    x = torch.randn(1, *sd.latent_shape(), generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    blocks = {name: block for name, block in sd.unet.named_modules() if name.endswith(".attn2")}
    met = {}
    hooks = [
        block.register_forward_hook(
            lambda block, args, kwargs, out, name=name: met.update({name: out}), with_kwargs=True
        )
        for name, block in blocks.items()
    ]
    sd.unet(x, 500, states)  # with the fused processors that diffusers chooses
    for hook in hooks:
        hook.remove()
    with attention.record(sd) as maps:
        sd.unet(x, 500, states)
    for name, block in blocks.items():
        (shares,) = maps.layers[name.removesuffix(".attn2")]
        values = block.to_v(states[1]).unflatten(-1, (block.heads, -1)).transpose(0, 1)  # (heads, 77, d)
        mine = block.to_out[0]((shares[0].flatten(1, 2) @ values).transpose(0, 1).flatten(1))
        theirs = met[name][1]
        assert (mine - theirs).abs().max() <= 1e-4 * theirs.abs().max(), name


def test_it_is_the_second_half_of_a_guided_batch_that_is_kept(emoji):
    with attention.record(emoji) as maps:
        draw(emoji)
    kept = {}
    for prompt in (PROMPT, ""):
        with attention.record(emoji) as alone:
            draw(emoji, prompt, guidance_scale=1)  # one row a call: there is no other half
        kept[prompt] = next(iter(alone.layers.values()))[0]
    both = next(iter(maps.layers.values()))[0]  # of the first step, which begins alike in all three
    assert torch.allclose(both, kept[PROMPT], atol=1e-5)
    assert (both - kept[""]).abs().max() > 1e-2


def test_maps_of_a_pipeline_are_those_of_the_loop(emoji):
    pipe, noise = pipeline(emoji), torch.randn(1, *emoji.latent_shape(), generator=torch.Generator().manual_seed(1))
    with attention.record(pipe) as theirs:
        pipe(PROMPT, latents=noise, num_inference_steps=3, guidance_scale=4.0, output_type="latent")
    with attention.record(emoji) as ours:
        draw(emoji)
    for name, steps in ours.layers.items():
        for a, b in zip(steps, theirs.layers[name], strict=True):
            assert torch.allclose(a, b, atol=1e-4), name


def test_looking_changes_the_picture_by_no_more_than_rounding(sd):
    before = draw(sd)
    with attention.record(sd):
        watched = draw(sd)
    assert 127.5 * (watched - before).abs().max() <= 1.01
    assert torch.equal(draw(sd), before), "and afterwards it is what it was"


def test_a_map_has_the_latents_shape_halved_also_of_a_wide_picture(sd):
    h, w = sd.latent_shape(2 * sd.height, sd.width)[1:]
    with attention.record(sd, size=(h, w)) as maps:
        draw(sd, height=2 * sd.height)
    for steps in maps.layers.values():
        rows, columns = steps[0].shape[2:4]
        assert (h / rows, w / columns) in {(2**k, 2**k) for k in range(4)}
    with pytest.raises(ValueError, match="size="), attention.record(sd):
        draw(sd, height=2 * sd.height)


# -- heat --------------------------------------------------------------------------------------------------------------


def test_heat_is_the_mean_over_heads_layers_and_steps_of_the_sum_over_tokens(drawn):
    maps = drawn[1]
    found = maps.heat([3, 6])
    by_hand = [
        torch.nn.functional.interpolate(
            (shares[..., 3] + shares[..., 6]).mean(1)[:, None], size=maps.size, mode="bilinear"
        )
        for steps in maps.layers.values()
        for shares in steps
    ]
    assert torch.allclose(found, torch.stack(by_hand).mean(0)[:, 0], atol=1e-6)
    assert found.shape == (2, *maps.size)


def test_the_heat_of_all_tokens_is_one_everywhere_at_any_size(drawn):
    maps = drawn[1]
    layer = next(iter(maps.layers))
    for choice in ({}, {"size": (50, 30)}, {"layers": [layer]}, {"steps": slice(1, 2)}, {"heads": slice(0, 1)}):
        total = maps.heat(range(77), **choice)
        assert torch.allclose(total, torch.ones(()), atol=1e-5)
    assert maps.heat([3], size=(50, 30)).shape == (2, 50, 30)


def test_a_step_a_head_and_a_layer_can_be_had_alone(drawn):
    maps = drawn[1]
    steps = torch.stack([maps.heat([3], steps=slice(k, k + 1)) for k in range(3)])
    assert torch.allclose(steps.mean(0), maps.heat([3]), atol=1e-6) and steps.std(0).max() > 1e-3
    layers = torch.stack([maps.heat([3], layers=[name]) for name in maps.layers])
    assert torch.allclose(layers.mean(0), maps.heat([3]), atol=1e-6) and layers.std(0).max() > 1e-3
    heads = [maps.heat([3], heads=slice(k, k + 1)) for k in range(4)]
    assert torch.allclose(torch.stack(heads).mean(0), maps.heat([3]), atol=1e-6)


def test_heat_has_a_gradient_where_one_is_asked_for(emoji):
    x = torch.randn(1, *emoji.latent_shape(), generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.enable_grad(), attention.record(emoji) as maps:
        emoji.unet(x, 500, text.encode_prompt(emoji, PROMPT))
    (slope,) = torch.autograd.grad(maps.heat([3]).amax(), x)
    step = 1e-3 * slope / slope.norm()
    ends = []
    with torch.no_grad():
        for sign in (-1, 1):
            with attention.record(emoji) as moved:
                emoji.unet(x + sign * step, 500, text.encode_prompt(emoji, PROMPT))
            ends.append(moved.heat([3]).amax())
    assert (ends[1] - ends[0]).item() == pytest.approx(2e-3 * slope.norm().item(), rel=0.05)


# -- swapping ----------------------------------------------------------------------------------------------------------


def test_swapping_in_the_same_prompts_maps_changes_nothing(drawn, emoji):
    pixels, maps = drawn
    with attention.swap(emoji, maps, pictures=2):
        assert torch.equal(draw(emoji, seeds=(1, 2)), pixels)


def test_with_the_first_prompts_maps_a_swapped_word_leaves_more_as_it_was(drawn, emoji):
    pixels, maps = drawn
    other = "a glossy fox and a dog"
    apart = [(draw(emoji, other, seeds=(1, 2)) - pixels).pow(2).mean().sqrt().item()]
    for until in (0, 2, None):
        with attention.swap(emoji, maps, until, pictures=2):
            apart.append((draw(emoji, other, seeds=(1, 2)) - pixels).pow(2).mean().sqrt().item())
    assert apart[1] == pytest.approx(apart[0], abs=1e-3), "until=0 swaps nothing"
    assert apart[0] > apart[2] > apart[3] > 0


def test_the_other_half_of_the_batch_keeps_its_own_shares(emoji):
    seen = []

    def nothing(layer, step, shares):
        seen.append(shares.shape)
        return torch.zeros_like(shares)

    states = text.encode_prompt(emoji, ["", PROMPT])
    x = torch.randn(1, *emoji.latent_shape(), generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    with torch.no_grad():
        before = emoji.unet(x, 500, states)[0]
        with attention.watch(emoji, nothing):
            after = emoji.unet(x, 500, states)[0]
    assert {shape[0] for shape in seen} == {1}
    assert torch.allclose(before[0], after[0], atol=1e-4) and (before[1] - after[1]).abs().max() > 1e-2


def test_a_record_inside_a_swap_keeps_the_swapped_maps(drawn, emoji):
    maps = drawn[1]
    with attention.swap(emoji, maps, pictures=2), attention.record(emoji, pictures=2) as kept:
        draw(emoji, "a glossy fox and a dog", seeds=(1, 2))
    for name, steps in maps.layers.items():
        assert all(torch.equal(a, b) for a, b in zip(steps, kept.layers[name], strict=True)), name
    with attention.record(emoji, pictures=2) as own, attention.swap(emoji, maps, pictures=2):
        draw(emoji, "a glossy fox and a dog", seeds=(1, 2))
    layer = next(iter(maps.layers))
    assert not torch.equal(own.layers[layer][0], maps.layers[layer][0]), "outside it, those from before the swap"


def test_maps_that_do_not_fit_are_an_error_that_says_what_to_record(drawn, emoji):
    maps = drawn[1]
    for options in ({"num_inference_steps": 4, "seeds": (1, 2)}, {"height": 2 * emoji.height, "seeds": (1, 2)}):
        with pytest.raises(ValueError, match="record a run like this one"), attention.swap(emoji, maps, pictures=2):
            draw(emoji, **options)


# -- leaving everything as it was --------------------------------------------------------------------------------------


def test_processors_come_back_after_the_block_and_after_an_error(emoji):
    unet = emoji.unet
    usual, names = unet.attn_processors, list(unet.attn_processors)
    unet.set_attn_processor({name: AttnProcessor() for name in names})
    before = unet.attn_processors
    try:
        with attention.record(emoji):
            changed = [name for name, now in unet.attn_processors.items() if now is not before[name]]
            assert changed == [name for name in names if name.endswith(".attn2.processor")]
        assert unet.attn_processors == before
        with pytest.raises(RuntimeError, match="midway"), attention.record(emoji):
            for _ in sdlearn.denoise(emoji, PROMPT, seed=1, **RUN):
                raise RuntimeError("midway")
        assert unet.attn_processors == before
    finally:
        unet.set_attn_processor(usual)


def test_a_batch_of_another_size_is_an_error_that_names_the_argument(emoji):
    with pytest.raises(ValueError, match="6 rows for pictures=1"), attention.record(emoji):
        draw(emoji, seeds=(1, 2, 3))
    assert not any(isinstance(now, attention.Watched) for now in emoji.unet.attn_processors.values())


def test_an_optimized_model_is_told_apart(random_sd):
    fast = sdlearn.optimize(random_sd)
    with pytest.raises(TypeError, match=r"before sdlearn\.optimize"), attention.record(fast):
        pass


# -- which tokens are a word's -----------------------------------------------------------------------------------------


def test_places_are_those_of_the_words_tokens_each_time_that_it_occurs(emoji):
    prompt = "a red apple and a foxaroo on a red background"
    pieces = text.tokens(emoji, prompt).pieces
    assert attention.places(emoji, prompt, "apple") == [pieces.index("apple</w>")] == [3]
    assert attention.places(emoji, prompt, "red apple") == [2, 3]
    assert [pieces[k] for k in attention.places(emoji, prompt, "red")] == ["red</w>"] * 2
    made_up = attention.places(emoji, prompt, "foxaroo")
    assert len(made_up) > 1 and "".join(pieces[k] for k in made_up) == "foxaroo</w>"
    assert attention.places(emoji, prompt, "APPLE") == [3]
    for absent in ("dog", "fox", ""):
        with pytest.raises(ValueError, match=f"{absent!r} is not in"):
            attention.places(emoji, prompt, absent)
