"""The broken machines of notebook 10: what runs is what is shown, and is the mistake that it says it is."""

import json
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, LMSDiscreteScheduler

from sdlearn import samplers
from sdlearn.exercises import break_it_on_purpose, mutants
from sdlearn.exercises import guided_unet_loop as from_words
from sdlearn.exercises import img2img as from_picture
from sdlearn.exercises.break_it_on_purpose import BUGS, Casebook, grey_levels
from sdlearn.exercises.mutants import Machine, changed, diff, edited, source_of
from sdlearn.sampling import solve
from sdlearn.schedule import NoiseSchedule
from sdlearn.text import encode_prompt
from sdlearn.tools import book

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@pytest.fixture(params=["emoji", "random_sd"])
def sd(request):
    return request.getfixturevalue(request.param)


def function(name, sd):
    """The function that a bug puts into the machine."""
    bug = BUGS[name]
    return bug.broken(sd)[bug.part]


# -- changing a line ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def tripled(x):
    y = x + x
    return y + x


def test_a_changed_function_does_what_its_changed_text_says():
    assert source_of(tripled).startswith("def tripled(x):"), "without its decorator"
    lines = {"y = x + x": "y = x * x\n    y = y * x"}
    assert changed(tripled, lines)(3) == 30 and tripled(3) == 9
    assert diff(source_of(tripled), lines) == ["- y = x + x", "+ y = x * x", "+ y = y * x"]
    assert changed(tripled, {"y + x": "y + elsewhere"}, elsewhere=1)(3) == 7


@pytest.mark.parametrize(("text", "times"), [("y = x * x", 0), ("y", 2)])
def test_a_text_that_does_not_stand_there_once_is_an_error(text, times):
    with pytest.raises(ValueError, match=f"stands {times} times"):
        edited("y = x + x\nreturn y", {text: "0"})


def test_no_bug_changes_more_than_three_lines(emoji):
    for name, bug in BUGS.items():
        lines = bug.diff(emoji)
        assert 2 <= len(lines) <= 4 and {line[0] for line in lines} == {"-", "+"}, name


# -- the mutants are the mistakes that they are taken for --------------------------------------------------------------


def test_the_right_parts_are_those_of_the_earlier_notebooks_and_of_the_library(sd):
    for n in (5, 16):
        assert mutants.plan(sd.schedule, n) == from_words.plan.answer(sd.schedule, n)
    levels = samplers.SAMPLERS["lms"].plan(sd.schedule, 12).levels
    x = mutants.EPS * levels[0].sigma

    def bent(x, level):
        return x.sin()

    mine, theirs = (list(solve(run, bent)) for run in (mutants.lms(x, levels), samplers.lms(x, levels)))
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(mine, theirs, strict=True))
    later = list(solve(mutants.lms(x, levels, 4), bent)), list(solve(samplers.lms(x, levels[4:]), bent))
    assert torch.equal(later[0][-1].latents, later[1][-1].latents), "begun in the middle, it begins with no past"


def test_the_mutants_are_the_mistakes_that_earlier_notebooks_know(emoji):
    schedule, shape = emoji.schedule, (1, *emoji.latent_shape())
    noise, image = from_words.first_noise.answer(3, shape), from_picture._image(emoji)
    assert torch.equal(function("flat", emoji)(3, shape), from_words.uniform(3, shape))
    assert all(map(torch.equal, function("stranger", emoji)(shape, 3), from_picture.noise_first(shape, 3)))
    start = 2 * noise, noise, schedule.timesteps(6), 3, schedule.alpha_bar
    assert torch.equal(function("same", emoji)(*start), from_picture.index_for_timestep(*start))
    for name, known in {"pale": from_picture.zero_to_one, "burnt": from_picture.unscaled}.items():
        assert torch.equal(function(name, emoji)(emoji, image, noise), known(emoji, image, noise))
    assert torch.equal(function("grey", emoji)(emoji, noise), from_words.not_divided(emoji, noise))
    answers = noise, 2 * noise, 3.0
    assert torch.equal(function("stubborn", emoji)(*answers), from_words.from_the_prompt(*answers))
    run = emoji, noise, encode_prompt(emoji, ""), encode_prompt(emoji, "a fox"), mutants.plan(schedule, 2), 3.0
    known = {"opposite": from_words.texts_swapped, "shards": from_words.i_for_t, "dark": from_words.step_twice}
    for name, wrong in known.items():
        assert torch.allclose(function(name, emoji)(*run), wrong(*run), atol=1e-4), name


def test_the_grainy_plan_is_that_of_diffusers_ddim_with_linspace(emoji):
    ddim = DDIMScheduler(**STABLE_DIFFUSION, set_alpha_to_one=False, clip_sample=False, timestep_spacing="linspace")
    ddim.set_timesteps(7)
    rows = function("grainy", emoji)(NoiseSchedule(), 7)
    x, eps = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for t, (mine, now, after) in zip(ddim.timesteps.tolist(), rows, strict=True):
        assert t == mine
        assert torch.allclose(
            ddim.step(eps, t, x).prev_sample, from_words.ddim_step.answer(x, eps, now, after), atol=1e-5
        )


def test_lms_from_the_middle_is_broken_as_diffusers_own_is(emoji):
    lms = LMSDiscreteScheduler(**{k: v for k, v in STABLE_DIFFUSION.items() if k != "steps_offset"})
    levels = samplers.SAMPLERS["lms"].plan(NoiseSchedule(), 20).levels
    for start in (0, 5, 17):
        solver = function("specks", emoji)(levels[start].sigma * torch.ones(1), levels, start)
        steps = solve(solver, lambda x, level: torch.ones(1))
        excess = [
            step.latents.item() - after.sigma for step, (_, after) in zip(steps, pairwise(levels[start:]), strict=True)
        ]
        assert excess == pytest.approx(from_picture.excess_noise_of_lms(lms, 20, start), abs=1e-4)


def test_a_negative_timestep_is_an_entry_near_the_end_of_the_table(emoji):
    rows = function("noise", emoji)(emoji.schedule, 10)
    assert rows[:-1] == mutants.plan(emoji.schedule, 10)[:-1]
    assert rows[-1][2] == emoji.schedule.alpha_bar[1 - 100].item() < 0.02


# -- the same model, written otherwise ---------------------------------------------------------------------------------


def test_a_stretched_model_encodes_and_decodes_as_before(sd):
    longer = mutants.stretched(sd, 0.05)
    assert longer.scaling_factor == 0.05 != sd.scaling_factor
    image, eps = from_picture._image(sd), from_words.first_noise.answer(1, (1, *sd.latent_shape()))
    z, same = (from_picture.encode.answer(model, image, eps) for model in (sd, longer))
    assert torch.allclose(z, same, atol=1e-3)
    raw = [from_picture.unscaled(model, image, eps) for model in (sd, longer)]
    assert torch.allclose(raw[0] * sd.scaling_factor / 0.05, raw[1], rtol=1e-3, atol=1e-3), "and its latents are longer"
    assert grey_levels(*(from_words.decode.answer(model, z) for model in (sd, longer)))[1] <= 1


def test_a_swollen_decoder_draws_the_same_in_float32_and_nothing_in_float16(sd):
    z = from_words.first_noise.answer(1, (1, *sd.latent_shape()))
    swollen = mutants.swollen(sd)
    right, same, small, none = (
        from_words.decode.answer(model, z) for model in (sd, swollen, mutants.in_half(sd), mutants.in_half(swollen))
    )
    assert grey_levels(right, same)[1] <= 1
    assert grey_levels(right, small)[1] < 10, "where nothing overflows, half precision is enough"
    assert not none.isfinite().any()
    assert not next(sd.vae.modules())._forward_hooks, "the model itself is left alone"


# -- the tests ---------------------------------------------------------------------------------------------------------


def test_every_right_machine_passes_every_test(sd):
    trained = [name for name in mutants.TESTS if name != "pure noise shows a picture" or sd.name == "emoji"]
    for bug in BUGS.values():
        assert [name for name in trained if not mutants.TESTS[name](bug.right(sd))] == []


def test_every_mutant_is_stopped_by_the_test_of_its_story_and_every_test_stops_some(sd):
    cases = Casebook(sd)
    assert {bug.test for bug in BUGS.values()} == mutants.TESTS.keys()
    for name, bug in BUGS.items():
        assert cases.stops(bug.test, name) or (name == "dull" and sd.name != "emoji"), name


def test_what_was_remembered_is_found_again_and_again(emoji):
    machine = BUGS["second"].broken(emoji)
    assert [mutants.same_seed_same_picture(machine) for _ in range(3)] == [False] * 3
    assert mutants.same_seed_same_picture(Machine(emoji))


# -- the cases, and the programs to mend -------------------------------------------------------------------------------


def test_a_case_is_drawn_once_and_tells_what_it_costs(emoji, monkeypatch):
    cases = Casebook(emoji)
    case = cases["grainy"]
    mean, most = cases.cost("grainy")
    assert f"{mean:.0f} of 255 grey levels on average, {most:.0f}" in case.cost and mean > 4
    assert case.number == 13 and case.right.size == case.broken.size == (emoji.width, emoji.height)
    monkeypatch.setattr(mutants, "from_noise", None)
    assert cases["grainy"].cost == case.cost


def test_the_right_guess_is_not_given_away_by_its_place(emoji):
    for bug in BUGS.values():
        assert len(bug.guesses) == 3
    places = [sorted(bug.guesses).index(next(iter(bug.guesses))) for bug in BUGS.values()]
    assert min(map(places.count, range(3))) >= 3, places


@pytest.mark.parametrize("name", ["start", "loop", "euler"])
def test_the_notebook_gives_out_programs_with_all_three_bugs(emoji, name):
    cells = json.loads((book.NOTEBOOKS / "10_break_it_on_purpose.ipynb").read_text(encoding="utf-8"))["cells"]
    (source,) = ("".join(cell["source"]) for cell in cells if f"exercise.{name}.check(" in "".join(cell["source"]))
    names = vars(break_it_on_purpose) | {"sd": emoji, "exercise": break_it_on_purpose}
    exec(source.split(f"\n\n\n{name} = exercise")[0].replace("return ...", "return x"), names)
    right, said = getattr(break_it_on_purpose, name).judge(names[name], emoji)
    assert not right and said.startswith("all three bugs are still in it")
