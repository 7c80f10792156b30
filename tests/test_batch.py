"""What is asked of a run: it is checked, written down, compared, and draws the same picture again."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import sdlearn
from sdlearn import guidance, pictures, sampling
from sdlearn.batch import CHECKS, Batch, Settings
from sdlearn.pictures import SETTINGS_KEY
from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import SPACINGS

FAST = {"num_inference_steps": 2, "guidance_scale": 3.0}


def saved(image: Image.Image, folder) -> dict:
    return sdlearn.read_settings(sdlearn.save_image(image, folder / "picture.png"))


# -- a picture's settings draw it again ------------------------------------------------------------------------------


def test_saved_settings_draw_their_picture_as_they_are(random_sd, tmp_path):
    given = {"seed": 5, "negative_prompt": "a dog", "eta": 0.5, "spacing": "trailing", **FAST}
    image = sdlearn.text_to_image(random_sd, "a fox", **given)
    again = sdlearn.text_to_image(random_sd, **saved(image, tmp_path))
    assert again.tobytes() == image.tobytes()
    assert list(sdlearn.denoise(random_sd, **saved(image, tmp_path)))[-1].latents.shape == (1, 4, 8, 8)


def test_saved_settings_of_a_redrawn_picture_draw_it_again_from_the_same_start(random_sd, tmp_path):
    start, hole = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
    hole.paste(0, (0, 0, 64, 30))
    for strength in (0.0, 0.5, 1.0):
        image = sdlearn.image_to_image(random_sd, start, "a fox", seed=5, strength=strength, **FAST)
        again = sdlearn.image_to_image(random_sd, start, **saved(image, tmp_path))
        assert again.tobytes() == image.tobytes()
    image = sdlearn.inpaint(random_sd, start, hole, "a fox", seed=5, keep_outside=False, **FAST)
    assert sdlearn.inpaint(random_sd, start, hole, **saved(image, tmp_path)).tobytes() == image.tobytes()


def test_each_picture_of_a_batch_remembers_what_is_its_own(random_sd):
    images = sdlearn.text_to_image(random_sd, ["a fox", "an owl"], seeds=[3, 4], **FAST)
    for image, prompt, seed in zip(images, ("a fox", "an owl"), (3, 4), strict=True):
        found = sdlearn.read_settings(image)
        assert (found["prompt"], found["seed"], found["negative_prompt"]) == (prompt, seed, "")
        assert "seeds" not in found and found["dtype"] == "float32"


def test_a_guidance_interval_is_written_and_draws_again(random_sd, tmp_path):
    scale = guidance.interval(np.float32(3.0), torch.tensor(0.5), 5)
    image = sdlearn.text_to_image(random_sd, "a fox", seed=5, num_inference_steps=3, guidance_scale=scale)
    found = saved(image, tmp_path)
    assert found["guidance_scale"] == {"guidance_scale": 3.0, "sigma_low": 0.5, "sigma_high": 5.0}
    assert sdlearn.text_to_image(random_sd, **found).tobytes() == image.tobytes()


@pytest.mark.parametrize("wrap", [np.float32, np.float64, torch.tensor, np.array])
def test_numbers_of_other_libraries_are_written_as_numbers(random_sd, wrap):
    whole = torch.tensor if wrap is torch.tensor else np.int64
    asked = {"guidance_scale": wrap(3.0), "num_inference_steps": whole(2), "seed": whole(7), "height": whole(64)}
    image = sdlearn.text_to_image(random_sd, "a fox", sampler=SAMPLERS["lms"], eta=None, **asked)
    found = sdlearn.read_settings(image)
    assert [found[name] for name in ("guidance_scale", "num_inference_steps", "seed", "sampler")] == [3.0, 2, 7, "lms"]
    assert sdlearn.text_to_image(random_sd, **found).tobytes() == image.tobytes()


def test_settings_of_older_pictures_still_draw(random_sd):
    image = sdlearn.text_to_image(random_sd, "a fox", seed=5, **FAST)
    image.info[SETTINGS_KEY] = json.dumps(
        {"num_inference_steps": 2, "guidance_scale": 3.0, "sampler": "ddim", "prompt": "a fox", "negative_prompt": "",
         "seed": 5, "model": random_sd.name, "width": 64, "height": 64}
    )  # fmt: skip
    older = sdlearn.read_settings(image)
    assert sdlearn.text_to_image(random_sd, **older).tobytes() == image.tobytes()
    assert Settings(**sdlearn.read_settings(image)).by(random_sd).difference(older) is None


def test_another_models_settings_draw_with_a_warning(random_sd):
    with pytest.warns(UserWarning, match="'other' drew the picture"):
        sdlearn.text_to_image(random_sd, "a fox", seed=5, model="other", **FAST)


PLAIN = {
    "prompt": st.text(st.characters(exclude_categories=["Cs"])),
    "seed": st.integers(0, 2**63 - 1),
    "num_inference_steps": st.integers(1, 1000),
    "guidance_scale": st.floats(-20, 20),
    "sampler": st.sampled_from(sorted(SAMPLERS)),
    "height": st.none() | st.integers(1, 4096),
    "spacing": st.none() | st.sampled_from(SPACINGS),
    "eta": st.none() | st.floats(0, 1),
    "long_prompt": st.booleans(),
}


@given(st.fixed_dictionaries(PLAIN))
def test_settings_survive_json_and_compare_by_what_they_ask_for(given):
    settings = Settings(**given)
    assert Settings(**json.loads(json.dumps(settings.written()))) == settings
    assert Settings(**settings) == settings
    assert settings != Settings(**given | {"seed": (given["seed"] + 1) % 2**63})
    assert settings.difference(settings.written()) is None
    assert settings.difference(settings.written() | {"prompt": given["prompt"] + "!"}) == "prompt"


def twice(level) -> float:
    return 2.0


def thrice(level) -> float:
    return 3.0


def test_functions_are_compared_by_name_and_what_has_none_equals_nothing():
    asked, others = Settings("a fox", guidance_scale=twice), (thrice, 7.5, guidance.interval(2.0, 0.5, 5.0))
    assert asked == Settings("a fox", guidance_scale=twice) and asked.difference(asked.written()) is None
    assert all(asked != Settings("a fox", guidance_scale=other) for other in others)
    assert asked.written()["guidance_scale"] == f"{__name__}.twice"
    assert Settings("", guidance_scale=others[2]) == Settings("", guidance_scale=guidance.interval(2, 0.5, 5))
    for nameless in ({"guidance_scale": lambda level: 2.0}, {"latents": torch.zeros(1, 4, 8, 8)}):
        asked = Settings("a fox", **nameless)
        assert asked != Settings("a fox", **nameless)
        assert asked.difference(json.loads(json.dumps(asked.written()))) == next(iter(nameless))


@pytest.mark.parametrize("setting", [{"eta": 0.5}, {"clip_skip": 1}, {"spacing": "trailing"}, {"height": 48}])
def test_a_setting_that_is_no_longer_asked_for_is_a_difference(random_sd, setting):
    drawn = Settings("a fox", seed=1, **setting).by(random_sd)
    assert Settings("a fox", seed=1).by(random_sd).difference(drawn.written()) == next(iter(setting))


def test_every_parameter_of_denoise_is_a_setting_and_is_checked():
    import inspect

    parameters = set(inspect.signature(sdlearn.denoise).parameters) - {"sd", "generator", "options"}
    assert parameters == set(CHECKS) == set(Settings("").__dict__) - {"model", "dtype"}


# -- pairing ---------------------------------------------------------------------------------------------------------


def test_iterators_are_lists(random_sd):
    batch = Batch(Settings(iter(["a fox", "an owl"]), seeds=(k for k in (3, 4))))
    assert (batch.size, batch.seeds) == (2, [3, 4])
    assert [s.prompt for s in batch.settings] == ["a fox", "an owl"]


def test_two_negative_embeddings_draw_two_pictures(random_sd):
    width = random_sd.unet.config.cross_attention_dim
    images = sdlearn.text_to_image(random_sd, "a fox", seed=5, negative_prompt_embeds=torch.zeros(2, 77, width), **FAST)
    assert len(images) == 2


def test_inpainting_takes_the_noise_it_is_given(random_sd):
    start, hole = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
    one, other = (
        sdlearn.inpaint(random_sd, start, hole, "a fox", seed=5, latents=noise, **FAST)
        for noise in torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    )
    assert one.tobytes() != other.tobytes()


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "word"),
    [
        ({"height": 0}, ValueError, "height"),
        ({"height": 64.5}, ValueError, "height"),
        ({"height": "64"}, ValueError, "height"),
        ({"width": -8}, ValueError, "width"),
        ({"height": 10**6, "width": 10**6}, ValueError, "pixels"),
        ({"guidance_scale": None}, ValueError, "guidance_scale"),
        ({"guidance_scale": "function"}, ValueError, "guidance_scale"),
        ({"eta": "x"}, ValueError, "eta"),
        ({"sampler": ["ddim"]}, ValueError, "sampler"),
        ({"spacing": ""}, ValueError, "spacing"),
        ({"seed": (1, 2)}, ValueError, "seed"),
        ({"seeds": "12"}, ValueError, "seed"),
        ({"seeds": iter([1, "2"])}, ValueError, "seed"),
        ({"prompt": iter([])}, ValueError, "prompt"),
        ({"prompt": iter(["a fox", 5])}, TypeError, "prompt"),
        ({"prompt": b"a fox"}, TypeError, "prompt"),
        ({"guidance_scale": {"guidance_scale": 3.0}}, ValueError, "guidance_scale"),
        ({"prompt": "a \ud800"}, ValueError, "surrogate"),
        ({"latents": np.zeros((1, 4, 8, 8))}, TypeError, "latents"),
        ({"mask": np.zeros((1, 1, 8, 8))}, TypeError, "mask"),
        ({"prompt": None, "prompt_embeds": torch.full((1, 77, 48), torch.nan)}, ValueError, "prompt_embeds"),
        ({"long_prompt": "yes"}, TypeError, "long_prompt"),
        ({"model": None, "bogus": 3}, TypeError, "bogus"),
    ],
)
def test_a_wrong_value_is_named(random_sd, options, kind, word):
    with pytest.raises(kind, match=word):
        sdlearn.text_to_image(random_sd, **{"prompt": "a fox", **FAST, **options})


def test_whole_floats_are_whole_numbers(random_sd):
    assert sdlearn.text_to_image(random_sd, "a fox", height=64.0, **FAST).size == (64, 64)


def test_a_model_comes_first():
    with pytest.raises(TypeError, match=r"sdlearn\.load"):
        sdlearn.text_to_image("emoji", "a fox")


def test_a_generator_is_a_generator(random_sd):
    with pytest.raises(TypeError, match="generator"):
        sdlearn.denoise(random_sd, "a fox", generator=5)


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"sampler": "nonsense"}, ValueError), ({"bogus": 3}, TypeError), ({"eta": 0.5, "sampler": "lms"}, ValueError)],
)
def test_a_run_of_no_steps_is_checked_like_any_other(random_sd, options, kind):
    with pytest.raises(kind):
        sdlearn.image_to_image(random_sd, Image.new("RGB", (64, 64)), "a fox", strength=0, **options)


def test_a_size_is_checked_before_the_picture_is_resized(random_sd, monkeypatch):
    monkeypatch.setattr(pictures, "fit", None)
    with pytest.raises(ValueError, match="pixels"):
        sdlearn.image_to_image(random_sd, Image.new("RGB", (64, 64)), "a fox", height=10**6, width=10**6)


def test_too_little_memory_is_a_sentence(random_sd, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ...")

    monkeypatch.setattr(sampling.autoencoder, "decode", full)
    with pytest.raises(MemoryError, match="fewer at once"):
        sdlearn.text_to_image(random_sd, "a fox", **FAST)


# -- what is only warned of ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["lms", "plms"])
def test_a_sampler_that_overshoots_is_reported_with_the_cure_and_a_good_run_is_quiet(emoji, sampler):
    prompts = ["a glossy red apple on a blue background", "a comic fox on a pink background"]
    run = {"seeds": [1, 2], "progress": False}
    with pytest.warns(UserWarning, match="guidance_scale"):
        sdlearn.text_to_image(emoji, prompts, sampler=sampler, guidance_scale=15, **run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sdlearn.text_to_image(emoji, prompts, sampler=sampler, guidance_scale=3, **run)


def test_the_default_run_is_quiet(emoji):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sdlearn.text_to_image(emoji, "a flat ghost on a black background", seed=3, progress=False)


def test_a_run_that_begins_where_little_noise_is_expected_is_reported(random_sd):
    with pytest.warns(UserWarning, match="trailing"):
        sdlearn.text_to_image(random_sd, "a fox", num_inference_steps=1, guidance_scale=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sdlearn.text_to_image(random_sd, "a fox", num_inference_steps=1, guidance_scale=1, spacing="trailing")


def test_heavy_words_are_named_where_numbers_overflow(random_sd):
    with pytest.raises(FloatingPointError, match="weights in the prompt"):
        sdlearn.text_to_image(random_sd, "a (fox:" + "9" * 39 + ")", prompt_weights=True, **FAST)
