"""The playground's engine against Python's: its noise, its tokens, its samplers, its networks, what it hands out."""

from __future__ import annotations

import base64
import gzip
import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sdlearn
from sdlearn import autoencoder, sampling, text
from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import NoiseSchedule
from sdlearn.show import widgets
from sdlearn.tools import book, browser, playground

ENGINE = book.NOTEBOOKS / "_static" / "playground"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(not NODE, reason="the engine is JavaScript: install Node.js")


def engine(*questions: dict) -> list:
    """What the engine answers, in Node."""
    command = [NODE, Path(__file__).with_name("browser_engine.mjs"), ENGINE]
    run = subprocess.run(command, input=json.dumps(questions), capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


# -- the noise ---------------------------------------------------------------------------------------------------------


@needs_node
def test_a_seed_gives_torchs_own_noise():
    seeds = [0, 1, 7, 42, 2**31, 2**32 - 1]
    for_all = [[1], [15], [16], [17], [31], [256], [1000], [4 * 16 * 16], [16, 16], [3, 3], [1024, 1024, 5, 20]]
    questions = [{"do": "normal", "seed": seed, "counts": counts} for seed in seeds for counts in for_all]
    for question, answer in zip(questions, engine(*questions), strict=True):
        generator = torch.Generator().manual_seed(question["seed"])
        for count, numbers in zip(question["counts"], answer, strict=True):
            wanted = torch.randn(count, generator=generator)
            assert torch.allclose(torch.tensor(numbers), wanted, rtol=0, atol=1e-6), question
            if count < 16:
                assert torch.equal(torch.tensor(numbers), wanted)


# -- the tokens --------------------------------------------------------------------------------------------------------

ODD = [
    "", " ", "a", "A Glossy  Fox\non a\tteal background!", "foxaroo, snorfleblat; it's we're I'll 'd", "don't can't''s",
    "naïve café Ångström ﬁne", "e\u0301 and é", "ΟΔΥΣΣΕΥΣ Σίσυφος", "İstanbul ı", "ẞ straße", "日本語の猫", "приве́т",
    "🦊", "a 🦊 fox 👨‍👩‍👧‍👦 🏳️‍🌈", "1234567890", "½ ² ①", "a_b-c/d\\e", "<|endoftext|>",
    "a <|startoftext|> b<|endoftext|>!", "\u00a0\u2003\u3000x\u0085y\ufeffz", "(((word)))", "...", "\u200d\u200b",
    "עברית", "العربية", "नमस्ते", "x" * 300, "the quick brown fox " * 40, "#$%&'()*+,-./:;<=>?@[]^_`{|}~",
]  # fmt: skip


def prompts() -> list[str]:
    """Every subject in some style and colour, and what people type besides."""
    from sdlearn.training.presets import SUBJECTS

    styles, colours = ("glossy", "flat", "ink", "neon"), ("teal", "sky blue", "orange", "white", "pink")
    names = [name for name in SUBJECTS if isinstance(name, str)]
    made = [f"a {styles[k % 4]} {name} on a {colours[k % 5]} background" for k, name in enumerate(names)]
    return [*ODD, *made, *(text.upper() for text in made[:50]), *(f"{a}{b}" for a in ODD[3:13] for b in ODD[13:20])]


@pytest.fixture(scope="module")
def exported(emoji, tmp_path_factory):
    """The folder and the manifest of the shipped model's small parts; the networks are tested by themselves."""
    folder = tmp_path_factory.mktemp("text")
    marks = browser.marks(emoji)
    return folder, marks, browser.store(folder, "merges.txt", browser.merges(emoji).encode())


@needs_node
def test_prompts_are_cut_into_the_pieces_that_python_reads(emoji, exported):
    folder, marks, stored = exported
    texts = prompts()
    assert len(texts) > 300
    question = {"do": "tokens", "merges": str(folder / stored["path"]), "marks": marks, "texts": texts}
    (answers,) = engine(question)
    for prompt, answer in zip(texts, answers, strict=True):
        wanted = emoji.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        assert answer["all"] == wanted, prompt
        assert answer["words"] == wanted[:75]
        assert answer["again"] == emoji.tokenizer.decode(wanted).strip(), prompt
        if len(wanted) <= 75:
            assert answer["ids"] == text.token_ids(emoji, prompt)[0].tolist()
        assert answer["lost"] == text.tokens(emoji, prompt).lost


# Half characters are no text; what is a letter only in the newest Unicode may be none yet in this Node.
LETTERS = st.characters(exclude_categories=("Cs", "Cn"))


@needs_node
@settings(max_examples=3)
@given(st.lists(st.text(LETTERS, max_size=40), min_size=100, max_size=100))
def test_no_text_is_cut_otherwise_than_in_python(emoji, exported, texts):
    folder, marks, stored = exported
    (answers,) = engine({"do": "tokens", "merges": str(folder / stored["path"]), "marks": marks, "texts": texts})
    for prompt, answer in zip(texts, answers, strict=True):
        assert answer["all"] == emoji.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids, prompt


def test_a_tokenizer_of_another_kind_is_refused_in_one_sentence(emoji):
    from dataclasses import replace

    class Other:
        bos_token = "<s>"
        bpe_ranks = (("a", "b"),)

        def convert_ids_to_tokens(self, ids):
            return ["?"] * len(ids)

        def __len__(self):
            return 3

    with pytest.raises(ValueError, match="is not CLIP's"):
        browser.merges(replace(emoji, tokenizer=Other()))


# -- the samplers ------------------------------------------------------------------------------------------------------

WEIGHTS = [[0.55, 0.3, -0.1], [0.6, -0.2, 0.05]]  # of a network that answers a x + b t / 1000 + c
SCALE = 3.0
SCHEDULES = {
    "epsilon": NoiseSchedule(),
    "v": NoiseSchedule(prediction_type="v_prediction", timestep_spacing="trailing"),
    "x0": NoiseSchedule(prediction_type="sample", beta_schedule="linear", timestep_spacing="linspace"),
}


def in_python(schedule, name, steps, skip, seed, count, x0):
    """The states and the timesteps of the same run, by the course's own loop."""
    plan = SAMPLERS[name].plan(schedule, steps, start_step=skip)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, generator=generator)
    fresh = [torch.randn(count, generator=generator) for _ in range(len(plan))] if plan.eta else []
    first = noise * plan.init_scale if x0 is None else plan.levels[0].add_noise(x0, noise)

    def ask(x, level):
        unit, t = x * level.input_scale, level.timestep / 1000
        without, with_words = (a * unit + b * t + c for a, b, c in WEIGHTS)
        return without + SCALE * (with_words - without)

    found = list(sampling.solve(plan.start(first, fresh), ask, schedule.prediction_type))
    return torch.stack([step.latents for step in found]), [step.timestep for step in found]


@needs_node
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_the_steps_of_python(name, kind, tmp_path):
    schedule, count = SCHEDULES[kind], 64
    # Few numbers of steps: `recipes` makes all that there are.
    table = {n: browser.recipes_of(schedule, SAMPLERS[name], n) for n in (1, 2, 3, 5, 12)}
    table = {n: found for n, found in table.items() if found}
    assert table
    stored = browser.store(tmp_path, "recipes.json", json.dumps(table).encode())
    x0 = torch.randn(count, generator=torch.Generator().manual_seed(99))
    runs = [(n, skip, seed) for n in table for skip in {0, 1, n // 2, n - 1} if skip < n for seed in (0, 5)]
    shared = {
        "do": "run",
        "recipes": str(tmp_path / stored["path"]),
        "count": count,
        "scale": SCALE,
        "weights": WEIGHTS,
    }
    questions = [
        shared | {"steps": n, "skip": skip, "seed": seed, "x0": x0.tolist() if skip else None} for n, skip, seed in runs
    ]
    for (n, skip, seed), answer in zip(runs, engine(*questions), strict=True):
        wanted, t = in_python(schedule, name, n, skip, seed, count, x0 if skip else None)
        assert np.allclose(answer["t"], t)
        found = torch.tensor(answer["states"])
        assert found.shape == wanted.shape
        worst = ((found - wanted).abs() / wanted.abs().amax(1, keepdim=True).clamp_min(1)).max().item()
        assert worst < 1e-4, (n, skip, seed, worst)


def test_a_run_that_starts_late_shares_the_rows_that_do_not_depend_on_the_past():
    found = browser.recipes_of(NoiseSchedule(), SAMPLERS["lms"], 10)
    assert [len(head) for head, _ in found["starts"]] == [3, 3, 3, 3, 3, 3, 3, 2, 1], "order 4 looks three steps back"
    assert all(len(head) + tail == 10 - k for k, (head, tail) in enumerate(found["starts"], 1))
    ddim = browser.recipes_of(NoiseSchedule(), SAMPLERS["ddim"], 10)
    assert all(head == [] for head, _ in ddim["starts"])


def test_a_recipe_looks_back_no_further_than_the_engine_remembers():
    for sampler in SAMPLERS.values():
        rows = browser.recipes_of(NoiseSchedule(), sampler, 12)["rows"]
        assert max(len(row[name]) for row in rows for name in ("x", "out")) <= 5, sampler.name


def test_a_sampler_that_cannot_begin_is_left_out():
    ends_in_noise = NoiseSchedule(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    assert browser.recipes_of(ends_in_noise, SAMPLERS["ddim"], 10) is None


# -- the networks ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped_folder():
    return "emoji"


@pytest.fixture(scope="module", params=["shipped_folder", "random_folder"])
def networks(request):
    """A model, and its networks as the page gets them, run by onnxruntime."""
    if sentence := browser.missing():
        pytest.skip(sentence)
    runtime = pytest.importorskip("onnxruntime", reason="the networks are run by onnxruntime")
    sd = sdlearn.load(request.getfixturevalue(request.param), device="cpu", dtype="float32")
    for part in (sd.text_encoder, sd.unet, sd.vae):  # the shipped model's numbers are in half precision already
        part.half().float()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    live = browser.live_rows(sd)
    made = browser.networks(sd, live)
    return sd, live, {name: runtime.InferenceSession(data, options) for name, data in made.items()}, made


def close(found, wanted):
    assert found.shape == tuple(wanted.shape)
    worst = np.abs(found - wanted.numpy()).max()
    assert worst < 1e-3 * max(1, wanted.abs().max().item()), worst


def rows_of(sd, live, prompt):
    where = {token: row for row, token in enumerate(live)}
    return np.array([[where.get(token, 0) for token in text.token_ids(sd, prompt)[0].tolist()]], dtype=np.int32)


def test_the_text_encoder_reads_with_the_live_rows_alone(networks):
    sd, live, sessions, _ = networks
    for prompt in ("a glossy fox on a teal background", "", "zebrafoxaroo 🦊", "word " * 90):
        (states,) = sessions["text"].run(None, {"rows": rows_of(sd, live, prompt)})
        close(states, text.encode_prompt(sd, prompt))
    if sd.name == "emoji":
        assert len(live) < 0.1 * len(sd.tokenizer)


def test_the_unet_answers_as_in_torch_and_shows_where_each_word_was_read(networks):
    sd, _, sessions, _ = networks
    x = torch.randn(1, *sd.latent_shape(), generator=torch.Generator().manual_seed(0))
    states = text.encode_prompt(sd, "a glossy fox")
    for t in (999.0, 480.5, 1.0):
        with torch.no_grad():
            wanted = sd.unet(x, torch.tensor(t), encoder_hidden_states=states).sample
        inputs = {"x": x.numpy(), "t": np.array([t], dtype=np.float32), "states": states.numpy()}
        output, attention = sessions["unet"].run(None, inputs)
        close(output, wanted)
        assert np.allclose(attention.sum(0), 1, atol=1e-4), "at every place the shares of all tokens add up to 1"
        assert list(attention.shape[1:]) == browser.finest(sd)


@needs_node
def test_half_precision_is_read_and_written_as_numpy_does():
    bits = np.arange(2**16, dtype=np.uint16)
    floats = np.random.default_rng(0).normal(size=4000).astype(np.float32) * np.float32(10) ** np.arange(-9, 7).repeat(
        250
    )
    floats = np.concatenate([floats, [0, 65504, 65519, 65520, 1e9, 2**-24, 2**-25, 1.5 * 2**-25, 2**-14]]).astype(
        np.float32
    )
    floats = np.concatenate([floats, -floats])
    read, written = engine({"do": "halves", "bits": bits.tolist(), "floats": floats.tolist()})[0]
    known = np.isfinite(bits.view(np.float16))
    assert (np.array([np.nan if v is None else v for v in read])[known] == bits.view(np.float16)[known]).all()
    with np.errstate(over="ignore"):
        assert (np.array(written, dtype=np.uint16) == floats.astype(np.float16).view(np.uint16)).all()


@needs_node
def test_the_page_adds_the_lora_as_python_does(emoji, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the networks are run by onnxruntime")
    if sentence := browser.missing():
        pytest.skip(sentence)
    folder = playground.prepared(emoji, book.BUILD / "playground")
    manifest = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    packed = {name: str(folder / manifest["files"][name]["path"]) for name in ("unet", "few")}
    assert manifest["files"]["few"]["bytes"] < 2e6
    engine({"do": "lora", **packed, "out": str(tmp_path / "few.onnx")})
    session = runtime.InferenceSession((tmp_path / "few.onnx").read_bytes())
    fast = sdlearn.load("emoji", device="cpu", dtype="float32", lora=browser.FEW)
    x = torch.randn(1, *emoji.latent_shape(), generator=torch.Generator().manual_seed(0))
    states, t = text.encode_prompt(emoji, "a glossy fox"), torch.tensor([999.0])
    with torch.no_grad():
        wanted, plain = (sd.unet(x, t, encoder_hidden_states=states).sample.numpy() for sd in (fast, emoji))
    inputs = {"x": x.numpy(), "t": t.numpy(), "states": states.numpy()}
    (found, _) = session.run(None, inputs)
    far = np.abs(found - wanted).max()
    assert far < 0.02 and far < 0.1 * np.abs(plain - wanted).max(), "half precision, and no more"


def test_levels_and_neighbours_are_those_of_python(emoji):
    table = browser.levels(emoji.schedule)
    assert len(table) == emoji.schedule.num_train_timesteps
    assert all(one["signal"] ** 2 + one["noise"] ** 2 == pytest.approx(1, abs=1e-6) for one in table)
    near = browser.near(emoji, browser.live_rows(emoji))
    fox = text.tokens(emoji, "fox").ids[1]
    assert emoji.tokenizer.convert_ids_to_tokens(near[fox]) == [
        f"{word}</w>" for word in widgets.neighbours(emoji, fox)
    ]


def test_the_autoencoder_goes_both_ways(networks):
    sd, _, sessions, _ = networks
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, *sd.latent_shape(), generator=generator)
    close(sessions["decoder"].run(None, {"latents": latents.numpy()})[0], autoencoder.decode(sd, latents))
    picture = torch.rand(1, 3, sd.height, sd.width, generator=generator) * 2 - 1
    mean, std = sessions["encoder"].run(None, {"picture": picture.numpy()})
    close(mean, autoencoder.encode(sd, picture))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    drawn = autoencoder.encode(sd, picture, [torch.Generator().manual_seed(3)])
    close(mean + std * noise.numpy(), drawn)


def test_large_tables_are_stored_in_half_precision_and_no_file_tells_where_it_was_made(networks):
    from onnx import load_model_from_string, numpy_helper

    for data in networks[3].values():
        tables = [numpy_helper.to_array(table) for table in load_model_from_string(data).graph.initializer]
        single = [table for table in tables if table.dtype == np.float32 and table.size >= browser.SMALL]
        assert all(table.min() < -65504 for table in single), "only masks, which half precision cannot hold"
        assert any(table.dtype == np.float16 for table in tables)
        assert str(book.ROOT).encode() not in data and b"site-packages" not in data


def test_colours_of_latents_are_roughly_those_of_the_decoded_picture(emoji):
    latents = autoencoder.encode(emoji, Image.new("RGB", (emoji.width, emoji.height), (220, 60, 40)))
    factors = torch.tensor(browser.colours(emoji))
    found = factors @ torch.cat([latents[0].mean((1, 2)), torch.ones(1)])
    assert found[0] > found[1] + 0.3 and found[0] > found[2] + 0.3, "red"


def test_without_the_exporter_one_sentence_names_the_cure(emoji, tmp_path, monkeypatch):
    monkeypatch.setattr(browser.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OSError, match=r"onnx and onnxscript: pip install -e '\.\[book\]'"):
        browser.export(emoji, tmp_path)


# -- what is handed out ------------------------------------------------------------------------------------------------

ASKED = {
    "prompt": 'a "glossy" fox & 🦊 # on a teal = background', "negative_prompt": "ink\\", "seed": 7,
    "num_inference_steps": 15, "guidance_scale": 4.5, "sampler": "dpm++2m",
}  # fmt: skip


@needs_node
def test_a_link_holds_the_settings_and_nonsense_in_it_is_passed_over():
    broken = {"do": "link", "asked": {}, "hash": "#seed=abc&steps=&guidance=3&prompt=a+b&evil=1"}
    with_strength = {**ASKED, "strength": 0.7}
    one, two, three = engine({"do": "link", "asked": ASKED}, {"do": "link", "asked": with_strength}, broken)
    assert one["back"] == ASKED and two["back"] == with_strength and one["hash"].isascii()
    assert three["back"] == {"guidance_scale": 3, "prompt": "a b"}


@needs_node
@pytest.mark.parametrize("started", [False, True])
def test_the_line_of_python_is_a_call_with_those_settings(started, monkeypatch):
    asked = {**ASKED, "strength": 0.7} if started else ASKED
    (lines,) = engine({"do": "python", "asked": asked, "load": "sdlearn.load()", "started": started})
    calls = {}
    monkeypatch.setattr(sdlearn, "load", lambda: "sd")
    for name in ("text_to_image", "image_to_image"):
        monkeypatch.setattr(sdlearn, name, lambda *args, name=name, **words: calls.update({name: (args, words)}))
    exec(lines)
    ((name, (args, words)),) = calls.items()
    assert name == ("image_to_image" if started else "text_to_image")
    assert args == (("sd", "start.png", ASKED["prompt"]) if started else ("sd", ASKED["prompt"]))
    assert words == {name: value for name, value in asked.items() if name != "prompt"}


@needs_node
def test_a_saved_picture_carries_settings_that_python_reads_and_draws_from(emoji, tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(file, "png")
    written = sdlearn.Settings("").by(emoji).written() | ASKED
    (png,) = engine({"do": "png", "png": base64.b64encode(file.getvalue()).decode(), "text": written})
    path = tmp_path / "picture.png"
    path.write_bytes(base64.b64decode(png))
    found = sdlearn.read_settings(path)
    assert found == written
    assert sdlearn.Settings(**found).difference(written) is None
    with Image.open(path) as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (0, 128, 128)


def test_files_are_named_by_what_they_hold(tmp_path):
    one, two, again = (browser.store(tmp_path, "a.json", data) for data in (b"1", b"2", b"1"))
    assert one == again and one["path"] != two["path"]
    assert gzip.decompress((tmp_path / one["path"]).read_bytes()) == b"1"
    assert one["bytes"] == (tmp_path / one["path"]).stat().st_size
