"""The recipe: data that come back from a seed, runs that survive an interruption, a reader that can read."""

import copy
import json
import os
import random
import re
import shlex
import subprocess
import sys
import zlib
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextModel

import sdlearn
from sdlearn.tools.book import NOTEBOOKS, ROOT
from sdlearn.training import autoencoder, captions, data, diffusion, export, reader, score
from sdlearn.training.captions import BACKGROUNDS, MASS_NOUNS, RGB, STYLES, Reading, caption, indefinite, is_dark, parse
from sdlearn.training.loop import Settings, generator, learning_rate

SHAPES = {
    "red apple": '<circle cx="16" cy="16" r="12" fill="{}"/>',
    "house": '<rect x="4" y="4" width="24" height="24" fill="{}"/>',
    "key": '<polygon points="16,2 30,30 2,30" fill="{}"/>',
}
FILLS = {"glossy": "#d33", "flat": "#3a3", "cartoon": "#33d", "ink": "#000"}
SUBJECTS = tuple(SHAPES)
SHORT = Settings(steps=6, batch_size=2, learning_rate=1e-3, warmup=2, mixed_precision="no", save_every=2)


@pytest.fixture(scope="module")
def artwork():
    icons = {"width": 32, "height": 32, "icons": {}}
    for name, body in SHAPES.items():
        for style, fill in FILLS.items():
            icons["icons"][name + style] = {"body": body.format(fill)}
    order = [(name, style) for name in SUBJECTS for style in STYLES]
    sprites = torch.stack([data.draw(data.svg(icons, name + style, 48)) for name, style in order])
    subject = torch.tensor([SUBJECTS.index(name) for name, _ in order])
    style = torch.tensor([STYLES.index(style) for _, style in order])
    return data.Artwork(sprites, subject, style, SUBJECTS, {"house": ("cottage", "home")})


@pytest.fixture(scope="module")
def shipped():
    return sdlearn.load(device="cpu", dtype="float32")


# --- captions


def test_every_caption_reads_back_as_what_is_in_the_picture():
    subjects = data.SUBJECTS_64
    dice = random.Random(0)
    for subject in subjects:
        for style in STYLES:
            for background in BACKGROUNDS:
                text = caption(subject, style, background, dice)
                read = parse(text, subjects)
                assert read in (Reading(subject, style, background), Reading(subject, None, background)), text


def test_only_things_that_are_counted_one_by_one_take_an_article():
    assert [indefinite(name) for name in ("owl", "unicorn", "bus", "wine glass", "cactus", "nest with eggs")] == [
        "an owl", "a unicorn", "a bus", "a wine glass", "a cactus", "a nest with eggs"
    ]  # fmt: skip
    several = {"ballet shoes", "blueberries", "books", "cherries", "french fries", "glasses", "grapes", "headphones",
               "jeans", "maracas", "pancakes", "peanuts", "scissors", "socks", "sunglasses"}  # fmt: skip
    assert {name for name in data.SUBJECTS_64 if indefinite(name) == name} - MASS_NOUNS == several
    assert (indefinite("books", "ink"), indefinite("popcorn", "flat")) == ("ink books", "flat popcorn")
    assert indefinite("owl", "flat") == "a flat owl" and captions.pair("owl", "socks") == "owl and socks"
    assert score.write(Reading("socks", "ink", "teal")) == "ink socks on a teal background"


def test_a_prompt_is_read_as_people_write_it():
    subjects = ("red apple", "orange", "dog")
    assert parse("A Glossy red apple, on a SKY BLUE background!", subjects) == ("red apple", "glossy", "sky blue")
    assert parse("an orange on an orange background", subjects) == ("orange", None, "orange")
    assert parse("a spaceship", subjects) == (None, None, "white")


# --- pictures


def test_a_batch_depends_on_its_seed_and_its_number_alone(artwork):
    variety = data.Variety(mirror=0.5, rotate=10, hue=20, gradient=0.5, keywords=0.5, pairs=0.5)
    stream = data.Pictures(artwork, 64, variety, seed=3)
    first = stream.batch(5, 8)
    stream.batch(6, 8)
    again = data.Pictures(artwork, 64, variety, seed=3).batch(5, 8)
    assert torch.equal(first.pixels, again.pixels) and first[1:] == again[1:]
    assert not torch.equal(first.pixels, stream.batch(6, 8).pixels)
    assert first.pixels.shape == (8, 3, 64, 64) and first.pixels.abs().max() <= 1 + 1e-6


def centre(alpha):
    """Centre of mass (right, down) of (H, W) in shares of the side, from the middle."""
    axis = (torch.arange(alpha.shape[0]) + 0.5) / alpha.shape[0] - 0.5
    return (alpha.sum(0) @ axis / alpha.sum()).item(), (alpha.sum(1) @ axis / alpha.sum()).item()


def test_a_sprite_lands_where_its_placement_says(artwork):
    sprite = artwork.sprites[4:5].float() / 255  # the house: a square of 24/32 of the side
    for right, down in ((0.08, -0.05), (0.0, 0.0)):
        placed = data.place(sprite, [data.Placement(0.8, right, down, 0, False, 0)], 64, [False])[0, 3]
        assert centre(placed) == pytest.approx((right, down), abs=2e-3)
        assert placed.sum().item() == pytest.approx((0.8 * 0.75 * 64) ** 2, rel=0.02)
    turned = data.place(sprite, [data.Placement(0.8, 0, 0, 45, False, 0)], 64, [False])[0, 3]
    assert turned.sum().item() == pytest.approx((0.8 * 0.75 * 64) ** 2, rel=0.02)
    assert (turned[32] > 0.5).sum().item() == pytest.approx(2**0.5 * 0.8 * 0.75 * 64, abs=2)  # the square's diagonal


def test_a_mirrored_sprite_is_the_mirror_image_and_moves_the_same_way(artwork):
    lopsided = artwork.sprites[8:9].float() / 255
    lopsided[:, :, :, 24:] = 0
    plain, mirrored = (data.place(lopsided, [data.Placement(0.9, 0, 0, 0, m, 0)], 64, [False]) for m in (False, True))
    assert torch.allclose(plain.flip(3), mirrored, atol=1e-5)
    moved = data.place(lopsided, [data.Placement(0.9, 0.08, 0, 0, True, 0)], 64, [False])
    assert centre(moved[0, 3])[0] - centre(mirrored[0, 3])[0] == pytest.approx(0.08, abs=2e-3)


def test_a_hue_turn_of_120_degrees_makes_red_green(artwork):
    red = torch.tensor([1.0, 0, 0, 1]).view(1, 4, 1, 1).expand(1, 4, 48, 48)
    placed = data.place(red, [data.Placement(1, 0, 0, 0, False, 120)], 64, [False])
    assert torch.allclose(placed[0, :, 32, 32], torch.tensor([0.0, 1, 0, 1]), atol=1e-5)


def test_ink_is_white_where_black_would_not_show(artwork):
    stream = data.Pictures(artwork, 64)
    ink_house = next(i for i in range(12) if artwork.subject[i] == 1 and STYLES[artwork.style[i]] == "ink")
    for background in BACKGROUNDS:
        batch = stream.compose([stream.scene(random.Random(0), [ink_house], background)])
        middle = (batch.pixels[0, :, 32, 32] + 1) / 2
        assert middle.mean().item() == pytest.approx(1.0 if is_dark(background) else 0.0, abs=1e-3)
        corner = (batch.pixels[0, :, 0, 0] + 1) / 2 * 255
        assert corner.tolist() == pytest.approx(RGB[background], abs=0.01)


def test_held_out_combinations_are_a_fixed_part_and_never_shown(artwork):
    subjects = data.SUBJECTS_64
    pairs = {(s, style): [data.held_out(s, style, b) for b in BACKGROUNDS] for s in subjects for style in STYLES}
    share = sum(any(row) for row in pairs.values()) / len(pairs)
    assert 0.10 <= share <= 0.15
    assert not any(all(row) for row in pairs.values())  # subject and style are seen together on other backgrounds
    stream = data.Pictures(artwork, 64, data.Variety(hold_out=True, pairs=0.3))
    dice = random.Random(0)
    scenes = [stream._scene(dice) for _ in range(2000)]
    shown = {stream._reading(sprite, scene.background) for scene in scenes for sprite in scene.sprites}
    assert not any(data.held_out(*reading) for reading in shown)
    assert len(shown) > 100


def test_captions_name_both_subjects_of_a_pair_and_use_keywords(artwork):
    stream = data.Pictures(artwork, 64, data.Variety(pairs=1.0, keywords=1.0))
    batch = stream.batch(0, 40)
    assert all(" and a" in text for text in batch.captions)
    houses = [t for t, r in zip(batch.captions, batch.readings, strict=True) if r.subject == "house"]
    assert houses and all("cottage" in t or "home" in t for t in houses)


def test_a_style_that_two_artists_draw_comes_no_more_often(artwork):
    flat = artwork.style == STYLES.index("flat")
    twice = replace(
        artwork,
        sprites=torch.cat((artwork.sprites, artwork.sprites[flat])),
        subject=torch.cat((artwork.subject, artwork.subject[flat])),
        style=torch.cat((artwork.style, artwork.style[flat])),
    )
    counts = Counter(scene.reading.style for scene in data.Pictures(twice, 64).scenes(0, 4000))
    assert {style: counts[style] / 4000 for style in STYLES} == pytest.approx(dict.fromkeys(STYLES, 0.25), abs=0.03)


def test_only_some_subjects_share_a_picture_and_the_first_named_is_left(artwork):
    names = ("house", "cat", "owl", "key")  # the middle two are of those that come in pairs
    four = data.Artwork(artwork.sprites.repeat(2, 1, 1, 1)[:16], torch.arange(16) // 4, torch.arange(16) % 4, names, {})
    scenes = data.Pictures(four, 64, data.Variety(pairs=1.0)).scenes(0, 100)
    shown = {tuple(names[four.subject[sprite]] for sprite in scene.sprites): scene for scene in scenes}
    assert shown.keys() == {("cat", "owl"), ("owl", "cat")}
    for (left, right), scene in shown.items():
        assert re.search(rf"\b{left} and an? {right}\b", scene.caption) and scene.reading.subject == left
        assert scene.placements[0].right < 0 < scene.placements[1].right
    assert data.pair_subjects(("house", "cat", "key")) == ("house", "cat", "key")


def test_a_damaged_download_is_refused(tmp_path):
    (tmp_path / "iconify-json-noto-1.2.9.tgz").write_bytes(b"not what was published")
    with pytest.raises(OSError, match=r"checksum differs\): delete it"):
        data.fetch("noto", tmp_path)


# --- training


def test_the_learning_rate_rises_stays_and_falls_to_nothing():
    settings = Settings(steps=1000, batch_size=1, learning_rate=1e-3, warmup=100, cooldown=0.2)
    rates = [learning_rate(step, settings) for step in range(1001)]
    assert rates[0] == pytest.approx(1e-5) and rates[99:801] == [1e-3] * 702
    assert rates[850] == pytest.approx(0.5e-3) and rates[1000] == 0


def test_a_run_may_be_lengthened_until_its_rate_falls_and_not_after(artwork, tmp_path):
    def go_on(steps, until):
        settings = replace(SHORT, steps=steps, cooldown=0.5)
        autoencoder.train_autoencoder(artwork, "emoji-64", tmp_path, small_vae(), settings=settings, until=until)

    go_on(8, until=3)
    go_on(10, until=4)
    go_on(10, until=7)
    with pytest.raises(ValueError, match="other settings"):
        go_on(12, until=8)


def small_vae():
    torch.manual_seed(0)
    blocks = (8, 8, 8)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4,
        block_out_channels=blocks, layers_per_block=1, norm_num_groups=4, sample_size=64, mid_block_add_attention=False,
    )  # fmt: skip


def small_unet(text_width=32):
    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1, cross_attention_dim=text_width,
        attention_head_dim=2, norm_num_groups=8,
    )  # fmt: skip


def small_text_encoder():
    torch.manual_seed(2)
    return diffusion.new_text_encoder(width=32)


def test_a_choice_of_subjects_keeps_their_drawings_and_names_what_there_is(artwork):
    few = artwork.only(["key", "house", "key"])
    assert few.subjects == ("house", "key") and few.keywords == {"house": ("cottage", "home")}
    for row, (subject, style) in enumerate(zip(few.subject.tolist(), few.style.tolist(), strict=True)):
        is_it = (artwork.subject == artwork.subjects.index(few.subjects[subject])) & (artwork.style == style)
        assert torch.equal(few.sprites[row], artwork.sprites[is_it][0])
    assert len(few.sprites) == 2 * len(STYLES)
    with pytest.raises(ValueError, match="no drawing of 'hose'; there are of house, "):
        artwork.only(["key", "hose"])
    with pytest.raises(ValueError, match="at least two subjects"):
        artwork.only(["key"])


def assert_equal_weights(a, b):
    b = b.state_dict()
    assert all(torch.equal(weights, b[name]) for name, weights in a.state_dict().items())


@pytest.mark.parametrize("decoder_only", [False, True])
def test_an_interrupted_autoencoder_run_ends_like_an_uninterrupted_one(artwork, tmp_path, decoder_only):
    def run(folder, **options):
        return autoencoder.train_autoencoder(
            artwork, "emoji-64", tmp_path / folder, small_vae(), decoder_only, SHORT, log=lambda line: None, **options
        )

    whole = run("whole")
    assert run("parts", until=3) is None
    assert run("parts", until=4) is None
    assert run("parts", minutes=1e-9) is None  # no time: not one step
    parts = run("parts")
    assert_equal_weights(whole, parts)
    assert_equal_weights(whole, AutoencoderKL.from_pretrained(tmp_path / "parts" / "vae"))
    untrained = small_vae()
    assert not torch.equal(whole.decoder.conv_in.weight, untrained.decoder.conv_in.weight)
    if decoder_only:  # latents of the old encoder are still latents of this autoencoder
        assert_equal_weights(whole.encoder, untrained.encoder)
        assert_equal_weights(whole.quant_conv, untrained.quant_conv)
        assert whole.config.scaling_factor == untrained.config.scaling_factor


def test_an_interrupted_diffusion_run_ends_like_an_uninterrupted_one(artwork, tmp_path, shipped):
    vae = small_vae().eval().requires_grad_(False)

    def run(folder, **options):
        return diffusion.train_diffusion(
            artwork, "emoji-64", vae, shipped.tokenizer, tmp_path / folder, small_text_encoder(), small_unet(),
            SHORT, augmentations=2, log=lambda line: None, **options,
        )  # fmt: skip

    whole = run("whole")
    assert run("parts", until=3) is None
    parts = run("parts")
    for a, b in zip(whole, parts, strict=True):
        assert_equal_weights(a, b)
    assert not torch.equal(whole[1].conv_in.weight, small_unet().conv_in.weight)
    with pytest.raises(ValueError, match="other settings"):
        diffusion.train_diffusion(
            artwork, "emoji-64", vae, shipped.tokenizer, tmp_path / "parts", small_text_encoder(), small_unet(),
            replace(SHORT, learning_rate=1.0), log=lambda line: None,
        )  # fmt: skip


LINE = """
import sys
import torch
from sdlearn.training.loop import Settings, generator, processes, train

class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(3))

    def forward(self, x, y):
        return (x @ self.slope - y).pow(2).mean()

def inputs(step, process):  # of one process: the two batches of two processes, one after the other
    batches = [torch.randn(4, 4, generator=generator(0, step, k)) for k in (range(2) if alone else [process])]
    x, noise = torch.cat(batches).split((3, 1), 1)
    return x, x @ torch.tensor([1.0, -2.0, 0.5]) + noise[:, 0]

alone, model = processes().num_processes == 1, Line()
settings = Settings(20, 8 if alone else 4, 0.1, warmup=1, mixed_precision="no", save_every=10)
assert train(model, inputs, settings, sys.argv[1], log=lambda line: None)
if processes().is_main_process:
    print(processes().num_processes, *model.slope.tolist())
"""


def test_two_processes_learn_what_one_learns_from_batches_twice_as_large(tmp_path):
    (tmp_path / "line.py").write_text(LINE)
    results = []
    for count in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        done = subprocess.run(
            [sys.executable, *launch, tmp_path / "line.py", tmp_path / str(count)],
            capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        processes, *slope = map(float, done.stdout.split())
        assert processes == count
        results.append(slope)
        logged = [json.loads(line) for line in (tmp_path / str(count) / "log.jsonl").read_text().splitlines()]
        assert [(line["step"], line["samples"]) for line in logged] == [(20, 160)]
    assert results[0] == pytest.approx([1, -1.7, 0.5], abs=0.5)  # on the way to 1, -2, 0.5
    assert results[1] == pytest.approx(results[0], abs=1e-5)


def test_a_new_model_knows_the_words_it_read_and_one_that_goes_on_keeps_its_own(artwork, tmp_path, shipped):
    def table_after_training(name, text_encoder=None):
        diffusion.train_diffusion(
            artwork, "emoji-64", small_vae().eval(), shipped.tokenizer, tmp_path / name, text_encoder,
            small_unet(text_width), SHORT, augmentations=2, log=lambda line: None,
        )  # fmt: skip
        ids = load_file(tmp_path / name / "latents.safetensors")["ids"].long().unique().tolist()
        encoder = CLIPTextModel.from_pretrained(tmp_path / name / "text_encoder")
        return encoder.get_input_embeddings().weight.detach(), ids

    text_width = shipped.text_encoder.config.hidden_size
    table, read = table_after_training("new")
    assert table.any(1).nonzero().flatten().tolist() == read

    before = shipped.text_encoder.get_input_embeddings().weight.detach().clone()
    untaught = shipped.tokenizer.convert_tokens_to_ids("cottage</w>")  # the test's artwork calls a house so
    assert not before[untaught].any()
    table, read = table_after_training("on", copy.deepcopy(shipped.text_encoder).requires_grad_(True))
    known = before.any(1)
    assert table[untaught].norm().item() == pytest.approx(before[known].norm(dim=1).mean().item(), rel=0.5)
    assert table.any(1).nonzero().flatten().tolist() == sorted({*read, *known.nonzero().flatten().tolist()})
    known[read] = False  # words that this run did not read
    assert known.sum() > 300 and torch.allclose(table[known], before[known], rtol=1e-3)


def test_a_run_with_a_reader_writes_the_curve_of_its_score(artwork, tmp_path, shipped, monkeypatch):
    class Contrary:
        """Finds every second picture right."""

        subjects = data.MORE_SUBJECTS

        def obeys(self, images, texts):
            assert len(images) == len(texts) and images.shape[1:] == (3, 64, 64)
            return [reader.Obeyed(True, True, i % 2 == 0) for i in range(len(texts))]

    monkeypatch.setattr(diffusion, "curve_point", partial(diffusion.curve_point, count=2))
    settings = replace(SHORT, sheet_every=3)
    diffusion.train_diffusion(
        artwork, "emoji-64", small_vae().eval(), shipped.tokenizer, tmp_path, small_text_encoder(), small_unet(),
        settings, augmentations=2, reader=Contrary(), log=lambda line: None,
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "score.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, "samples": 2 * step, "seen": 0.5, "new": 0.5} for step in (3, 6)]
    sheet = Image.open(tmp_path / "sheet-000006.png")
    assert len(diffusion.sheet_prompts(SUBJECTS)) == 8 and sheet.height > sheet.width > 4 * 64  # rows of four pictures
    Contrary.subjects = SUBJECTS[:2]  # of the first subjects no combination was held out
    assert diffusion.curve_point(shipped, Contrary()).keys() == {"seen"}


def test_the_diffusion_loss_noises_as_diffusers_does_and_weights_by_min_snr():
    class Recorder(torch.nn.Module):
        """A UNet that predicts nothing and remembers what it was shown."""

        def forward(self, x, timesteps, states):
            self.x = x
            return type("Output", (), {"sample": torch.zeros_like(x)})

    unet = Recorder()
    loss = diffusion.DiffusionLoss(small_text_encoder(), unet)
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=generator(0))
    timesteps = torch.tensor([10, 400, 990])
    value = loss(x0, torch.full((3, 77), 49407), noise, timesteps)
    ddpm = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert torch.allclose(unet.x, ddpm.add_noise(x0, noise, timesteps), atol=1e-5)
    snr = ddpm.alphas_cumprod[timesteps] / (1 - ddpm.alphas_cumprod[timesteps])
    expected = (noise.pow(2).mean((1, 2, 3)) * snr.clamp(max=5) / snr).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)


# --- export


def test_the_exported_folder_is_a_pipeline(tmp_path, shipped):
    folder = export.export(small_vae(), small_text_encoder(), small_unet(), shipped.tokenizer, tmp_path / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    assert pipeline.scheduler.config.clip_sample is False
    ours = sdlearn.text_to_image(sdlearn.load(folder, device="cpu"), "an ink owl", seed=1, num_inference_steps=2)
    assert ours.size == (64, 64)


def test_rounded_weights_lose_four_percent_and_compress_by_half():
    layer = torch.nn.Linear(400, 400)
    torch.nn.init.normal_(layer.weight, std=0.03, generator=generator(0))
    layer.weight.data[0] = 0
    layer.half()
    before, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    export.round_weights(layer)
    after = layer.weight.detach()
    assert torch.equal(layer.bias, bias) and not after[0].any()
    assert 0.02 < (after.float() - before.float()).norm() / before.float().norm() < 0.06
    packed = [len(zlib.compress(weights.numpy().tobytes())) for weights in (before, after)]
    assert packed[1] < 0.5 * packed[0]
    export.round_weights(layer)
    assert torch.equal(layer.weight, after)  # once is enough


@pytest.mark.parametrize("preset", ["emoji-64", "emoji-128"])
def test_both_presets_fit_the_size_budget_together_with_the_reader(preset):
    parts = (autoencoder.new_autoencoder(preset), diffusion.new_text_encoder(), diffusion.new_unet(preset))
    size = 2 * sum(p.numel() for part in parts for p in part.parameters())
    assert size + 1.5 * export.MIB <= export.BUDGET
    subjects, width = {"emoji-64": (len(data.SUBJECTS_64), 24), "emoji-128": (1004, 20)}[preset]
    judge = reader.Reader(map(str, range(subjects)), width=width)
    assert 2 * sum(p.numel() for p in judge.parameters()) <= 1.5e6
    side = data.PRESETS[preset].size
    with torch.no_grad():
        assert parts[0].encode(torch.zeros(1, 3, side, side)).latent_dist.mean.shape == (1, 4, 16, 16)


def test_too_large_a_model_and_a_foreign_decoder_are_refused(tmp_path, shipped):
    with pytest.raises(ValueError, match="45 MiB are allowed"):
        export.export(small_vae(), diffusion.new_text_encoder(512), small_unet(), shipped.tokenizer, tmp_path)
    with pytest.raises(ValueError, match="no part of the decoder"):
        export.replace_decoder(small_vae(), small_vae().state_dict())
    decoder = {k: v for k, v in small_vae().state_dict().items() if k.startswith(("decoder.", "post_quant_conv."))}
    export.replace_decoder(small_vae(), decoder)


# --- the reader and the score


def test_the_model_card_lists_what_the_model_learned(shipped):
    card = " ".join((sdlearn.model_path() / "README.md").read_text().split())
    known = reader.load_reader().subjects
    listed = re.search(r"\*\*Subjects\*\*, (\d+): (.*?)\. - ", card)
    assert int(listed[1]) == len(known) and tuple(listed[2].split(", ")) == known
    words = re.search(r"\*\*Other words\*\* for some of them, (\d+), .*?: (.*?)\. - ", card)
    assert int(words[1]) == len(words[2].split(", "))
    rows = shipped.text_encoder.get_input_embeddings().weight.any(1)
    assert f"holds {rows.sum()} trained rows" in card
    for word in (*known, *words[2].split(", ")):
        assert rows[shipped.tokenizer(word).input_ids].all(), f"the card lists {word!r}, which the model never read"
    assert f"the {len(known)} things it can draw" in " ".join((ROOT / "README.md").read_text().split())


def test_the_shipped_reader_is_small_and_reads_what_the_shipped_model_draws(shipped):
    judge = reader.load_reader()
    folder = sdlearn.model_path() / "reader"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1.5 * export.MIB
    asked = ["a glossy red apple", "an ink owl on a teal background", "a cartoon fox on a pink background",
             "a flat pizza on a blue background", "an ink rocket on a black background", "a cartoon house"]  # fmt: skip
    asked *= 4
    pictures = sdlearn.text_to_image(shipped, asked, seeds=range(24), num_inference_steps=15, guidance_scale=4)
    right = reader.share(judge.obeys(pictures, asked))
    assert right["subject"] == 1 and right["background"] == 1 and right["style"] >= 0.75
    swapped = reader.share(judge.obeys(pictures, asked[1:] + asked[:1]))
    assert swapped["subject"] == 0


def test_the_reader_takes_any_size_and_says_how_sure_it_is(shipped):
    judge = reader.load_reader()
    picture = sdlearn.text_to_image(shipped, "a glossy red apple", seed=7, num_inference_steps=15, guidance_scale=4)
    large, small = judge.read([picture.resize((256, 256)), picture])
    assert large[:3] == small[:3] == ("red apple", "glossy", "white")
    assert 0.5 < small.subject_probability <= 1
    with pytest.raises(ValueError, match="2 pictures, 3 prompts"):
        judge.obeys([picture, picture], ["a dog"] * 3)


def test_a_reader_learns_shapes_and_comes_back_from_disk(artwork, tmp_path):
    torch.manual_seed(0)
    pictures = data.Pictures(artwork, 64)
    judge = reader.train_reader(pictures, steps=40, batch_size=24, log=lambda line: None)
    measured = reader.measure_reader(judge, data.Pictures(artwork, 64, seed=9), batches=2, batch_size=24)
    assert measured["subject"] > 0.8 and measured["background"] > 0.8
    reader.save_reader(judge, tmp_path, measured)
    batch = pictures.batch(100, 8)
    again = reader.load_reader(tmp_path).probabilities(batch.pixels)
    for a, b in zip(judge.probabilities(batch.pixels), again, strict=True):
        assert torch.allclose(a, b, atol=0.02)  # half precision on disk


def test_parts_a_prompt_leaves_open_cannot_be_wrong():
    right = [reader.Obeyed(True, None, True), reader.Obeyed(False, True, True)]
    assert [one.all for one in right] == [True, False]
    assert reader.share(right) == {"subject": 0.5, "style": 1.0, "background": 1.0, "all": 0.5}


def test_score_prompts_are_fixed_and_can_be_held_out():
    subjects = data.SUBJECTS_64
    for held in (True, False):
        asked = score.prompts(subjects, 30, seed=1, held=held)
        assert asked == score.prompts(subjects, 30, seed=1, held=held)
        readings = [parse(prompt, subjects) for prompt in asked]
        assert all(data.held_out(*reading) == held for reading in readings)
        assert not held or not {reading.subject for reading in readings} & set(data.FIRST_SUBJECTS)
    with pytest.raises(ValueError, match="held out of training"):
        score.prompts(data.FIRST_SUBJECTS, 1, held=True)


def test_a_synonym_means_one_subject_and_is_no_subject_itself():
    names = {"dog": "dog-face", "car": "automobile", "pickup truck": "pickup-truck"}
    cached = data.CACHE / "emojibase-data-17.0.0.tgz"
    if not cached.exists():
        pytest.skip("the artwork's packages have not been fetched")
    assert data._keywords(names, data.CACHE) == {"dog": ("puppy",), "car": ("automobile",), "pickup truck": ("pickup",)}


def test_prompts_of_keywords_and_pairs_come_with_what_they_mean():
    [(text, meant)] = score.keyword_prompts({"dog": ("puppy",)}, 1)
    assert " puppy on " in text and meant.subject == "dog" and text == score.write(meant._replace(subject="puppy"))
    for text, (first, second) in score.pair_prompts(("cat", "owl", "dog"), 20):
        assert first != second and f" {first} and a" in text and f" {second} on " in text


def test_each_half_of_a_pair_is_read_by_itself(artwork):
    class Recorder:
        """Reads a half by its colour, as a reader of red and blue things would."""

        def read(self, pixels):
            assert pixels.shape[-2:] == (64, 64)
            names = ["red" if picture[0].mean() > picture[2].mean() else "blue" for picture in pixels]
            return [reader.Seen(name, "flat", "white", 1, 1, 1) for name in names]

    picture = -torch.ones(1, 3, 64, 64)
    picture[:, 0, :, :32] = picture[:, 2, :, 32:] = 1
    asked = [("red", "blue"), ("blue", "red"), ("red", "red")]
    assert score.pair_obedience(picture.repeat(3, 1, 1, 1), asked, Recorder()) == {
        "pictures": 3, "in order": pytest.approx(1 / 3), "both": pytest.approx(2 / 3)
    }  # fmt: skip


def test_the_distance_to_training_pictures_is_zero_for_one_of_them(artwork):
    known = score.variations(data.Pictures(artwork, 64), Reading("house", "flat", "blue"), 4)
    assert score.distance(known[2], known).argmin() == 2 and score.distance(known[2], known).min() == 0
    assert score.distance(torch.ones(1, 3, 8, 8), -torch.ones(1, 3, 8, 8)).item() == 1
    assert autoencoder.psnr(known, known + 0.02).mean().item() == pytest.approx(40, abs=1)


def test_the_training_commands_are_all_there(capsys):
    from sdlearn.tools.cli import main

    for command in ("data", "reader", "autoencoder", "diffusion", "export", "score"):
        with pytest.raises(SystemExit) as stopped:
            main(["train", command, "--help"])
        assert stopped.value.code == 0
        assert f"sdlearn train {command}" in capsys.readouterr().out


def test_every_command_on_the_page_about_training_is_one():
    from sdlearn.tools.cli import _parser

    page = (NOTEBOOKS / "training.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", "")
    commands = [shlex.split(line) for line in re.findall(r"sdlearn train (.*)", blocks)]
    assert {command[0] for command in commands} == {"data", "diffusion", "export", "reader", "score"}
    asked = {getattr(_parser(with_training=True).parse_args(["train", *words]), "subjects", None) for words in commands}
    (new,) = asked - {None, "shipped"}
    assert set(new.split(", ")) <= set(data.MORE_SUBJECTS) - set(reader.load_reader().subjects)  # new to the model


def test_shipped_stands_for_the_shipped_models_subjects_in_a_list_of_subjects():
    from sdlearn.training.cli import _subjects

    known = list(reader.load_reader().subjects)
    assert _subjects("shipped") == known and len(known) > 200
    assert _subjects("squid, shipped ,hot dog,") == ["squid", *known, "hot dog"]
