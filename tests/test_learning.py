"""What a lesson on training stands on: exact answers in the plane, a bound in closed form, a LoRA that learns."""

from __future__ import annotations

import math

import pytest
import torch
from reference import relative_error

import sdlearn
from sdlearn import NoiseSchedule, figures, widgets
from sdlearn.exercises import training as lesson
from sdlearn.show import shapes
from sdlearn.training import distil, lora

A = NoiseSchedule().alpha_bar[[20, 300, 900]].tolist()


def chance(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# -- shapes ------------------------------------------------------------------------------------------------------------


def log_density(x, alpha_bar, label=None):
    """Of noised shapes, by torch's own mixture of normal distributions."""
    centres = shapes.CENTRES.double() if label is None else shapes.CENTRES.double()[label : label + 1]
    means = alpha_bar**0.5 * centres.flatten(0, 1)
    width = torch.full_like(means, (alpha_bar * shapes.WIDTH**2 + 1 - alpha_bar) ** 0.5)
    each = torch.distributions.Independent(torch.distributions.Normal(means, width), 1)
    mixing = torch.distributions.Categorical(logits=torch.zeros(len(means)))
    return torch.distributions.MixtureSameFamily(mixing, each).log_prob(x)


@pytest.mark.parametrize("alpha_bar", A)
@pytest.mark.parametrize("label", [None, 0, 2])
def test_the_ideal_answer_is_the_score_turned_round(alpha_bar, label):
    x = chance(50, 2).requires_grad_()
    (score,) = torch.autograd.grad(log_density(x, alpha_bar, label).sum(), x)
    torch.testing.assert_close(shapes.ask(x, alpha_bar, label), -((1 - alpha_bar) ** 0.5) * score)


def test_no_label_and_the_label_none_are_one_and_each_point_may_have_its_own():
    x = chance(6, 2)
    labels = torch.tensor([0, 1, 2, shapes.NONE, 1, shapes.NONE])
    together = shapes.ask(x, A[0], labels)
    alone = torch.cat([shapes.ask(x[k : k + 1], A[0], None if n == shapes.NONE else n) for k, n in enumerate(labels)])
    torch.testing.assert_close(together, alone)
    levels = torch.tensor(A).repeat(2)
    apart = torch.cat([shapes.ask(x[k : k + 1], levels[k].item()) for k in range(6)])
    torch.testing.assert_close(shapes.ask(x, levels), apart)


@pytest.mark.parametrize("alpha_bar", A)
def test_the_ideal_classifier_is_bayes_rule(alpha_bar):
    x = chance(50, 2)
    joint = torch.stack([log_density(x, alpha_bar, label) for label in range(3)], dim=1)
    torch.testing.assert_close(shapes.which(x, alpha_bar), joint.log_softmax(1))


def test_points_are_centred_of_unit_size_and_lie_on_their_shapes():
    points, labels = shapes.draw(30_000, torch.Generator().manual_seed(0))
    assert points.mean(0).abs().max() < 0.02 and abs(points.square().mean() - 1) < 0.02
    for label in range(3):
        own = points[labels == label]
        assert shapes.obedience(own, label) > 0.98 and shapes.coverage(own, label) == 1
        assert abs(len(own) / len(points) - 1 / 3) < 0.02
    assert shapes.coverage(shapes.CENTRES[2][:12], 2) < 0.25
    assert shapes.obedience(torch.zeros(5, 2), 1) == 0


def test_no_answer_has_a_smaller_error_than_the_ideal_one():
    (x0, labels), eps, a = shapes.draw(20_000, torch.Generator().manual_seed(1)), chance(20_000, 2, seed=2), A[1]
    x = a**0.5 * x0 + (1 - a) ** 0.5 * eps
    best = shapes.ask(x, a, labels)
    error = (best - eps).square().mean()
    for other in (0.97 * best, 1.03 * best, best + 0.03, shapes.ask(x, a)):
        assert (other - eps).square().mean() > error


# -- the bound ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[1.0, 0.8], ids=["ideal", "careless"])
def chain(request):
    return lesson.Chain(lesson.levels(NoiseSchedule(), 12), request.param)


def test_a_walk_step_by_step_is_one_jump(chain):
    walks = chain.walks(0.7, 200_000)
    for t in (0, 5, 11):
        assert abs(walks[t].mean() - chain.signal[t] * 0.7) < 0.01 and abs(walks[t].std() - chain.noise[t]) < 0.01


def test_the_models_distribution_is_that_of_what_it_draws(chain):
    count, fresh = 200_000, chance(13, 200_000, seed=3)
    z = fresh[0]
    for t in reversed(range(1, 12)):
        z = chain.from_x[t - 1] * chain.x0(z, t) + chain.from_z[t - 1] * z + chain.width[t - 1] * fresh[t]
    drawn = (z + chain.noise[0] * fresh[12]) / chain.signal[0]
    assert abs(drawn.std() / chain.std - 1) < 0.01 and abs(drawn.mean()) < 4 * chain.std / count**0.5


def test_the_mean_of_the_ratios_is_the_evidence_and_the_mean_of_their_logarithms_the_bound(chain):
    for x in (0.0, 0.6):
        ratios = chain.log_ratios(chain.walks(x, 100_000), x)
        assert abs(ratios.exp().mean().log() - chain.log_likelihood(x)) < 0.05
        assert abs(ratios.mean() + chain.bound(x**2)) < 5 * ratios.std() / 100_000**0.5
        assert -chain.bound(x**2) < chain.log_likelihood(x)


def test_an_ideal_network_wastes_nothing_over_many_levels():
    square = lesson.DATA**2
    entropy = 0.5 * math.log(2 * math.pi * math.e * square)
    fine = lesson.Chain(lesson.levels(NoiseSchedule(), 4000))
    assert entropy < fine.bound(square) < entropy + 0.01 and abs(fine.std - lesson.DATA) < 0.002


def test_levels_have_the_ends_of_the_schedule_and_even_steps():
    a, schedule = lesson.levels(NoiseSchedule(), 7), NoiseSchedule()
    torch.testing.assert_close(a[[0, -1]], schedule.alpha_bar[[0, -1]])
    steps = (a / (1 - a)).log().diff()
    assert (steps < 0).all() and (steps - steps[0]).abs().max() < 1e-6


# -- a LoRA that learns ------------------------------------------------------------------------------------------------


@pytest.fixture
def pupil(random_folder):
    return sdlearn.load(random_folder, device="cpu", dtype="float32")


def fixed(sd):
    """Latents, states, timesteps and noise to measure a loss on."""
    shape = (12, *sd.latent_shape())
    timesteps = torch.arange(12) * 80 + 7
    states = sdlearn.text.encode_prompt(sd, ["a blorp"] * 12)
    return chance(*shape, dtype=torch.float32), states, timesteps, chance(*shape, seed=1, dtype=torch.float32)


def test_the_loss_is_diffusers_noising_and_the_mean_square_of_the_noise(emoji):
    from diffusers import DDPMScheduler

    latents, states, timesteps, eps = fixed(emoji)
    noised = DDPMScheduler.from_pretrained(emoji.path, subfolder="scheduler").add_noise(latents, eps, timesteps)
    with torch.no_grad():
        said = emoji.unet(noised, timesteps, states).sample
        assert abs(lora.loss(emoji, latents, states, timesteps, eps) - (said - eps).square().mean()) < 1e-5


def test_the_loss_of_a_network_that_says_v_is_measured_in_noise(random_sd):
    class Right(torch.nn.Module):
        def forward(self, x, t, encoder_hidden_states):
            signal, noise = (table[t].float().view(-1, 1, 1, 1) for table in (s.signal, s.noise))
            return type("Answer", (), {"sample": signal * eps - noise * latents})

    s = random_sd.schedule
    assert s.prediction_type == "v_prediction"
    latents, states, timesteps, eps = fixed(random_sd)
    perfect = sdlearn.model.StableDiffusion(
        random_sd.tokenizer, random_sd.text_encoder, Right(), random_sd.vae, s, "right", None
    )
    assert lora.loss(perfect, latents, states, timesteps, eps) < 1e-8


def test_a_lora_learns_pictures_and_leaves_the_models_own_numbers_alone(pupil, tmp_path):
    before = {name: numbers.clone() for name, numbers in pupil.unet.named_parameters()}
    pictures, captions = lesson.album(pupil, count=4)
    data = sdlearn.autoencoder.encode(pupil, pictures), sdlearn.text.encode_prompt(pupil, captions)
    eps = chance(4, *pupil.latent_shape(), dtype=torch.float32)
    seen, timesteps = [], torch.tensor([100, 400, 600, 900])
    for step in lora.teach(pupil, pictures, captions, steps=24, batch_size=4, rank=2):
        if step in (0, 24):
            with torch.no_grad():
                seen.append(lora.loss(pupil, *data, timesteps, eps).item())
    assert step == 24 and seen[1] < 0.975 * seen[0]
    after = dict(pupil.unet.named_parameters())
    trained = {name for name in after if "lora_" in name}
    assert all(torch.equal(after[name], before[name.replace(".base_layer", "")]) for name in after.keys() - trained)
    assert {name for name, numbers in after.items() if numbers.requires_grad} == trained
    assert all(min(after[name].shape) == 2 for name in trained)

    distil.save_adapter(pupil.unet, tmp_path)
    loaded = sdlearn.load(pupil.path, device="cpu", dtype="float32", lora=tmp_path)
    run = {"seed": 1, "num_inference_steps": 3, "progress": False}
    latents = [list(sdlearn.denoise(sd, "a blorp", **run))[-1].latents for sd in (pupil, loaded)]
    assert relative_error(*latents) < 1e-2  # saved in half precision


def test_the_same_seed_learns_the_same(random_folder):
    ends = []
    for _ in range(2):
        sd = sdlearn.load(random_folder, device="cpu", dtype="float32")
        torch.rand(3)  # whatever was drawn before
        for _ in lora.teach(sd, *lesson.album(sd, count=2), steps=2, batch_size=2):
            pass
        ends.append([numbers for numbers in sd.unet.parameters() if numbers.requires_grad])
    assert all(map(torch.equal, *ends))


def test_the_site_does_not_draw_with_the_shipped_model_what_a_taught_one_draws():
    sd = sdlearn.load("emoji", device="cpu", dtype="float32")
    run = {"num_inference_steps": 4}
    assert widgets.prompt_explorer(sd, "a blorp", **run).live is not None
    lora.adapt(sd)
    assert widgets.prompt_explorer(sd, "a blorp", **run).live is None


def test_half_precision_is_refused(random_folder):
    sd = sdlearn.load(random_folder, device="cpu", dtype="bfloat16")
    with pytest.raises(ValueError, match=r"float32.*bfloat16.*dtype='float32'"):
        lora.adapt(sd)


def test_purple_is_the_creatures_colour_and_no_background_of_its_pictures(emoji):
    pictures, captions = lesson.album(emoji, count=8)
    assert 0.2 < lesson.purple(pictures) < 0.35 and len(set(captions)) > 4
    assert all(lesson.WORD in caption for caption in captions)
    plain = [picture.crop((0, 0, 20, 20)) for picture in pictures]
    assert lesson.purple(plain) == 0


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_a_product_states_its_rank_and_refuses_what_does_not_fit():
    a, b = chance(3, 20), chance(30, 3)
    words = [text.get_text() for text in figures.product(b, a, chance(30, 20)).texts]
    assert "30 × 20\nrank 3" in words and "3 × 20\n60 numbers" in words
    with pytest.raises(ValueError, match=r"must fit together"):
        figures.product(a, b[:, :2])
    with pytest.raises(ValueError, match=r"one size"):
        figures.product(b, a, chance(20, 30))


def test_points_outside_the_plane_are_marked_at_its_edge():
    fig = figures.planes({"near and far": [[0.0, 0.0], [9.0, 0.5]]}, notes=["half"])
    (ax,) = fig.axes
    near, far = ax.lines[-2:]
    assert near.get_xydata().tolist() == [[0, 0]] and far.get_xydata().tolist() == [[2.6, 0.5]]
    assert ax.get_xlabel() == "half" and "near and far (half)" in fig.alt


def test_marks_stand_where_they_are():
    fig = figures.spread(chance(1000), {"low": -1.0, "high": 1.5}, xlabel="x")
    places = [line.get_xdata()[0] for line in fig.axes[0].lines]
    assert places == [-1.0, 1.5] and "low at -1" in fig.alt


def test_the_card_is_read_and_not_repeated():
    shares = lesson.shares()
    assert list(shares["all three"]) == ["trained combinations", "held-out combinations"]
    assert all(0 < share <= 100 for row in shares.values() for share in row.values())
    assert lesson.card("Training")[0] == ["part", "recipe", "seen", "time"]
    assert len(set(lesson.known_things())) == 32
    assert sum(row.startswith("held out") for row in lesson.recipe().splitlines()) == 1
    judge = sdlearn.lesson(sdlearn.load("emoji")).judge
    for prompt in lesson.known_things():
        assert None not in judge.parse(prompt), prompt
