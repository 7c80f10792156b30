"""Every exercise takes its right answer, names each likely mistake, and knows an answer that is merely wrong."""

import importlib
import inspect
import json
import pkgutil
import re
from itertools import pairwise

import pytest
import torch
from diffusers import LMSDiscreteScheduler
from PIL import Image, ImageChops

import sdlearn
from sdlearn import exercises
from sdlearn.exercises import RECORD, all_of, exercise, img2img
from sdlearn.exercises import inpainting_and_interpolation as holes

MODULES = [module.name for module in pkgutil.iter_modules(exercises.__path__) if module.name != "lesson"]
ALL = [
    pytest.param(one, id=f"{name}.{one.name}")
    for name in MODULES
    for one in all_of(importlib.import_module(f"sdlearn.exercises.{name}"))
]
every_exercise = pytest.mark.parametrize("one", ALL)


def context(one, sd) -> tuple:
    """What the inputs of an exercise are made from: the model, or nothing."""
    return (sd,) if inspect.signature(one.inputs).parameters else ()


@every_exercise
def test_the_right_answer_is_right(one, emoji):
    assert one.judge(one.answer, *context(one, emoji)) == (True, "right.")


@every_exercise
def test_each_mistake_is_named(one, emoji):
    assert len(one.mistakes) >= 1
    sentences = [sentence for sentence, _ in one.mistakes]
    assert len(set(sentences)) == len(sentences)
    for sentence, wrong in one.mistakes:
        right, said = one.judge(wrong, *context(one, emoji))
        assert right is False and said.startswith(sentence)
        assert re.fullmatch(r"|( Here it costs up to \d+ of 255 grey levels\.)", said.removeprefix(sentence))


@pytest.mark.parametrize("module", ["guided_unet_loop", "img2img", "final"])
def test_a_mistake_in_the_machine_is_told_with_its_cost(module, emoji):
    told, silent = {}, []
    for one in all_of(importlib.import_module(f"sdlearn.exercises.{module}")):
        for sentence, wrong in one.mistakes if one.picture or one.machine else ():
            said = one.judge(wrong, *context(one, emoji))[1].removeprefix(sentence)
            if cost := re.search(r"costs up to (\d+)", said):
                told[sentence] = int(cost[1])
            else:
                silent.append(sentence)
    assert len(told) > 10 and len(silent) <= 3, silent
    assert max(told.values()) > 200 and 0 < min(told.values()) < 60, "some ruin the picture, some are hardly seen"


@every_exercise
def test_an_answer_that_is_merely_wrong_is_told_so(one, emoji):
    def wrong(*arguments):
        right = one.answer(*arguments)
        if isinstance(right, (str, bool)) or right is None:
            return "neither"
        if isinstance(right, (list, tuple)):
            return type(right)(part if isinstance(part, str) else part * 1.37 + 0.61 for part in right)
        return right * 1.37 + 0.61

    right, said = one.judge(wrong, *context(one, emoji))
    assert right is False and said not in [sentence for sentence, _ in one.mistakes]


@every_exercise
def test_it_says_what_a_teacher_wants_to_know(one):
    assert 1 <= one.minutes <= 30 and one.difficulty in ("easy", "medium", "hard")
    assert one.trains and one.hint.endswith((".", "?")) and not one.trains.endswith(".")


# -- the check itself --------------------------------------------------------------------------------------------------


@exercise(minutes=1, difficulty=1, trains="doubling", hint="Add it to itself.")
def double(x):
    return x + x


@double.given
def _():
    yield (torch.tensor([2.0]),)  # where squaring and doubling are alike
    yield (torch.tensor([3.0, 4.0]),)


@double.mistake("that is the square.")
def _(x):
    return x**2


def test_an_untouched_stub_is_not_attempted_and_the_course_goes_on_with_its_own(capsys):
    def stub(x): ...

    def unwritten(x):
        raise NotImplementedError

    for attempt in (..., None, stub, unwritten):
        assert double.check(attempt) is double.answer
    lines = capsys.readouterr().out.splitlines()
    assert len(set(lines)) == 1 and lines[0].startswith("✎ double: not attempted yet (1 minutes, easy)")


def test_a_right_answer_is_gone_on_with_and_a_wrong_one_is_not(capsys):
    def mine(x):
        return 2 * x

    assert double.check(mine) is mine
    assert double.check(lambda x: x**2) is double.answer
    assert capsys.readouterr().out.splitlines() == ["✓ double: right.", "✗ double: that is the square."]


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda x: x * float("nan"), "not finite"),
        (lambda x: (2 * x)[:1], r"shape \(1,\), and \(2,\)"),
        (lambda x: "4", "gives a str"),
        (lambda x: 2 * x + 0.5, "up to 0.5 away"),
        (lambda x: x.halve(), "stops with AttributeError"),
        (lambda: 4, "stops with TypeError"),
    ],
)
def test_what_is_wrong_is_said(attempt, words):
    right, said = double.judge(attempt)
    assert right is False
    assert re.search(words, said)


def test_an_error_names_the_readers_own_line():
    def mine(x):
        return x.halve()

    assert "in the line `return x.halve()`" in double.judge(mine)[1]


def test_an_answer_that_changes_its_input_does_not_change_the_question():
    def in_place(x):
        return x.mul_(2)

    assert double.judge(in_place)[0] is True
    assert double.judge(double.answer)[0] is True


def test_a_question_may_ask_for_a_value():
    @exercise(minutes=1, difficulty=1, trains="counting", hint="Count.")
    def tokens():
        return 77

    tokens.mistake("the two marks are missing.")(lambda: 75)
    assert tokens.judge(77)[0] is True and tokens.judge(...)[0] is None
    assert tokens.judge(75) == (False, "the two marks are missing.")
    assert tokens.check(...) == 77 and tokens.check(76) == 77


def test_differences_of_pictures_are_told_in_grey_levels():
    @exercise(minutes=1, difficulty=1, trains="", hint="", picture=lambda x: x)
    def grey():
        return torch.zeros(1, 3, 2, 2)

    assert "up to 51 of 255 grey levels" in grey.judge(torch.full((1, 3, 2, 2), 0.4))[1]


def test_a_solution_that_is_wrong_stops_the_notebook():
    with pytest.raises(AssertionError, match="the square"):
        double.prove(lambda x: x**2)
    assert double.prove(double.answer) is double.answer


def test_checks_leave_a_record_where_one_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv(RECORD, str(tmp_path / "grades"))
    double.check(...)
    double.check(lambda x: x**2)
    lines = [json.loads(line) for line in (tmp_path / "grades").read_text().splitlines()]
    assert [line["right"] for line in lines] == [None, False] and lines[1]["said"] == "that is the square."


# -- what a lesson claims ----------------------------------------------------------------------------------------------


def test_what_is_proved_is_printed_and_what_is_not_so_stops(emoji, capsys):
    lesson = sdlearn.lesson(emoji)
    lesson.prove("one is less than two", 1 < 2, lambda: True)
    assert capsys.readouterr().out == "✓ one is less than two\n"
    for prove in (lesson.prove, lesson.claim):
        with pytest.raises(AssertionError, match="pigs fly"):
            prove("pigs fly", 1 < 2, lambda: 2 < 1)
    with pytest.raises(AssertionError, match="at least one condition"):
        lesson.prove("nothing")
    assert lesson.shipped and lesson.judge.subjects and lesson.rounding == 1


def test_a_claim_about_the_shipped_model_does_not_stop_another(random_sd, capsys):
    lesson = sdlearn.lesson(random_sd)
    lesson.claim("it draws foxes", False)
    lesson.claim("it counts", True)
    lesson.claim("its judge is sure", lambda: lesson.judge.sure)
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines] == ["–", "✓", "–"]
    assert lesson.judge is None
    with pytest.raises(AssertionError):
        lesson.prove("one and one are three", False)


# -- few steps ---------------------------------------------------------------------------------------------------------


def test_on_a_model_without_a_judge_a_run_that_keeps_the_rules_is_right(random_sd):
    from sdlearn.exercises import few_steps

    def runs(*timesteps, name="ddim"):
        return few_steps.plan.judge(lambda calls: (name, timesteps[:calls]), random_sd)

    assert few_steps.plan.judge(few_steps.plan.answer, random_sd) == (True, "right.")
    assert runs(500, 400, 300, 200) == (True, "right.")
    assert runs(999, 1000)[1] == few_steps.UNKNOWN and runs(999, 999)[1] == few_steps.UPHILL
    assert runs(999, 500, name="lms")[1] == few_steps.FOREIGN and runs()[1] == few_steps.UNKNOWN
    assert few_steps.plan.judge(lambda calls: None, random_sd)[0] is None


def test_plms_asks_once_more_than_it_has_timesteps(emoji):
    from sdlearn.exercises import few_steps

    for name, timesteps in (("plms", (999, 700, 300)), ("ddim", (999, 500)), ("plms", (999,))):
        seen = few_steps.calls_of(
            emoji, lambda name=name, timesteps=timesteps: few_steps.pictures(emoji, name, timesteps)
        )
        assert seen == few_steps.asked(name, timesteps) * len(few_steps.PROMPTS)


def test_the_twins_student_learns_the_ends_and_says_the_point_itself_at_the_last_level():
    from sdlearn.exercises import few_steps
    from sdlearn.show import exact

    torch.manual_seed(5)
    student, last = few_steps.learn(few_steps.target.answer, steps=600), few_steps.LEVELS[-1]
    assert torch.initial_seed() == 5
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(student(x, last), x / last.signal)
    start, ends = (exact.path(exact.SHARES, level) / level.signal for level in (few_steps.LEVELS[0], last))
    jumped = student(few_steps.LEVELS[0].signal * start, few_steps.LEVELS[0])
    assert (jumped - ends).abs().mean() < 0.35 < 0.8 < ends.abs().mean()


def test_a_transformer_puts_its_patches_back_where_it_took_them_and_begins_by_doing_nothing():
    from sdlearn.exercises.few_steps import DiT

    network = DiT(channels=4, size=6, words=8, patch=2, width=32, layers=2)
    with torch.no_grad():  # read a patch's numbers into the first 16 of a token, and write them out again
        network.enter.weight.zero_().flatten(1)[:16] = torch.eye(16)
        network.leave.weight.zero_()[:, :16] = torch.eye(16)
        for layer in (network.enter, network.leave):
            layer.bias.zero_()
        x, states = torch.randn(2, 4, 6, 6), torch.randn(2, 5, 8)
        out = network(x, torch.tensor([3.0, 900.0]), states)
        torch.testing.assert_close(out, x)
        network.blocks[0].told[1].bias.fill_(0.1)
        later = network(x, torch.tensor([3.0, 900.0]), states)
        assert (later - x).abs().max() > 1e-3 and later.shape == x.shape


@pytest.mark.parametrize(("name", "billions"), [("sd-3-medium", 2.0), ("flux.1-schnell", 11.9), ("sd-1.5", 0.86)])
def test_networks_of_published_configs_have_their_published_size(name, billions):
    from sdlearn.exercises.few_steps import real

    assert sum(p.numel() for p in real(name).parameters()) / 1e9 == pytest.approx(billions, rel=0.02)


# -- the final ---------------------------------------------------------------------------------------------------------


def test_the_unseen_model_shares_no_number_with_the_known_one(emoji):
    from sdlearn.exercises.final import unseen

    other = unseen(emoji)
    assert unseen(emoji) is other, "one for all checks"
    for what in ("height", "width", "vae_factor", "scaling_factor"):
        assert getattr(other, what) != getattr(emoji, what), what
    assert other.unet.config.cross_attention_dim != emoji.unet.config.cross_attention_dim
    for what in ("num_train_timesteps", "steps_offset", "set_alpha_to_one", "prediction_type"):
        assert getattr(other.schedule, what) != getattr(emoji.schedule, what), what
    assert other.latent_shape()[1] != other.latent_shape()[2], "height and width are not to be exchanged"
    torch.manual_seed(5)
    unseen.cache_clear()
    twin = unseen(emoji)
    assert torch.equal(twin.unet.conv_out.weight, other.unet.conv_out.weight), "the same at every call"
    assert torch.initial_seed() == 5, "and the reader's own random numbers go on as they were"


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_final_asks_for_what_the_library_draws(emoji):
    from sdlearn.exercises import final
    from sdlearn.pictures import to_tensor

    for model in (emoji, final.unseen(emoji)):
        run = {"num_inference_steps": 6, "guidance_scale": 4.0, "seed": 1, "progress": False}
        drawn = to_tensor(sdlearn.text_to_image(model, "a flat owl", **run))
        assert final.from_picture.grey_levels(drawn, final.draw.answer(model, "a flat owl", 1, 6, 4.0)) <= 1
        redrawn = to_tensor(
            sdlearn.image_to_image(model, final.from_picture.sketch(model), "an owl", strength=0.5, **run)
        )
        mine = final.redraw.answer(model, final.unit_picture(model), "an owl", 0.5, 1, 6, 4.0)
        assert final.from_picture.grey_levels(redrawn, mine) <= 1
        assert (final.by_parts(model, final.unit_picture(model), "an owl", 0.5, 1, 6, 4.0) - mine).abs().max() < 1e-3


def test_numbers_learned_by_heart_cost_nothing_on_the_known_model_and_much_on_another(emoji):
    from sdlearn.exercises import final

    found = final.costs(emoji, num_inference_steps=3)
    for caption in final.BY_HEART:
        _, known, other = found[caption]
        assert known == 0 and not other < 10, caption  # nan: not even the size is right
    assert min(known for caption, (_, known, _) in found.items() if caption in final.ANYWHERE) > 1


def test_the_certificate_holds_the_file_and_counts_what_was_passed(emoji, tmp_path):
    import base64
    import re

    from sdlearn.exercises import final
    from sdlearn.show.certificate import certificate

    run = {"seed": 1, "num_inference_steps": 2, "guidance_scale": 3.0}
    pixels = final.draw.answer(emoji, "<a fox>", *run.values())
    path = sdlearn.save_image(final.signed(emoji, pixels, "<a fox>", **run), tmp_path / "my picture.png")
    mine = final.passed(draw=print, redraw=final.redraw.answer, again=final.again.answer)
    assert mine == {"draw": True, "redraw": False, "again": False}
    shown = certificate(path, mine)
    assert "1 of 3 checks passed" in repr(shown) and "&lt;a fox&gt;" in shown._repr_html_()
    files = re.findall(r"base64,([^\"]+)", shown.html)
    assert len(files) == 2 and {base64.b64decode(file) for file in files} == {path.read_bytes()}
    again = sdlearn.text_to_image(emoji, **sdlearn.read_settings(path), progress=False)
    levels = final.from_picture.grey_levels(*(sdlearn.pictures.to_tensor(one) for one in (again, path)))
    assert levels <= 1


# -- what a notebook measures with its exercises' helpers --------------------------------------------------------------


def test_grey_levels_are_those_of_the_8_bit_pictures():
    a = torch.full((3, 2, 2), 1 / 255)  # level 128
    assert img2img.grey_levels(a, a + 2 / 255) == 1 and img2img.grey_levels(a, a + 0.2 / 255) == 0
    assert img2img.grey_levels(a - 5, a + 5) == 255  # pictures are clipped


def test_a_sampler_begun_in_the_middle_holds_the_noise_that_it_tells(emoji):
    for sampler in ("ddim", "lms", "euler"):
        assert max(map(abs, img2img.excess_noise(emoji.schedule, sampler, 20, 8))) < 1e-3
    lms = LMSDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert max(map(abs, img2img.excess_noise_of_lms(lms, 20, 0))) < 0.01
    assert abs(img2img.excess_noise_of_lms(lms, 20, 8)[-1]) > 0.1  # diffusers forgets its missing past


# -- holes and walks ---------------------------------------------------------------------------------------------------


def chance(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_slerp_goes_round_at_full_size_and_at_one_pace():
    a, b = chance(1, 4, 16, 16), chance(1, 4, 16, 16, seed=1)
    b = b * a.norm() / b.norm()
    way = [holes.slerp.answer(a, b, k / 8) for k in range(9)]
    assert all(abs(x.norm() / a.norm() - 1) < 1e-5 for x in way)
    paces = [(x - y).norm().item() for x, y in pairwise(way)]
    assert max(paces) / min(paces) < 1 + 1e-4
    assert torch.allclose(way[0], a, atol=1e-5) and torch.allclose(way[-1], b, atol=1e-5)
    middle = holes.lerp(a, b, 0.5).norm() / a.norm()
    assert abs(middle - 0.5**0.5) < 0.03, "what is independent adds by its squares"


def test_two_ways_up_are_one_way_up_and_all_ways_are_the_forward_process():
    x, one, two = (chance(400_000, seed=k) for k in range(3))
    steps = holes.back_up.answer(holes.back_up.answer(x, one, 0.6, 0.9), two, 0.3, 0.6)
    jump = holes.back_up.answer(x, one, 0.3, 0.9)
    for found in (steps, jump):
        assert abs((found * x).mean() - (0.3 / 0.9) ** 0.5) < 0.005 and abs(found.std() - 1) < 0.005
    clean = torch.full_like(x, 2.0)
    noised = holes.keep_outside(x, clean, one, torch.zeros(1), 0.9)
    up = holes.back_up.answer(noised, two, 0.3, 0.9)
    assert abs(up.mean() - 2 * 0.3**0.5) < 0.005 and abs(up.std() - 0.7**0.5) < 0.005


def test_outside_the_hole_a_filled_picture_ends_as_the_original():
    x, original, noise = (chance(2, 4, 4, 4, seed=k) for k in range(3))
    filled = holes.inpaint.answer(x, original, noise, holes._left(), [0.1, 0.5, 0.9], lambda x, k: x + k + 1)
    assert torch.equal(filled[..., 2:], original[..., 2:])
    assert torch.allclose(filled[..., :2], x[..., :2] + 3)


def test_with_one_prompt_for_both_the_tricks_with_two_are_the_plain_answer():
    x = chance(1, 4, 8, 8)

    def ask(x, words):
        return words * x

    assert torch.allclose(holes.two_ways.answer(ask, x, 0.7, 0.7, holes.upside_down), ask(x, 0.7))
    assert torch.allclose(holes.near_and_far.answer(ask, x, 0.7, 0.7, holes.blur), ask(x, 0.7), atol=1e-6)
    flat = torch.ones(1, 4, 8, 8)
    assert torch.allclose(holes.blur(flat), flat, atol=1e-6) and holes.blur(x).std() < 0.5 * x.std()
    mixed = holes.near_and_far.answer(ask, x, 2.0, 0.0, holes.blur)
    assert torch.allclose(mixed, holes.blur(2 * x), atol=1e-6)


def test_a_seam_is_a_jump_in_the_middle():
    slope = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    assert abs(holes.seam(slope) - 1) < 1e-4
    halves = slope.clone()
    halves[..., 32:] -= 0.5
    assert holes.seam(halves) > 3


def test_a_scratch_is_thinner_than_a_cell_and_the_hole_is_the_scratch(emoji):
    picture = Image.new("RGB", (emoji.width, emoji.height), "white")
    for factor in (4, 8):
        scratched, hole = holes.scratch(picture, factor)
        assert ImageChops.difference(scratched, picture).convert("L").point(lambda v: 255 * (v > 0)).tobytes() == (
            hole.tobytes()
        )
        upper = torch.tensor(list(hole.crop((0, 0, hole.width, 1)).tobytes())) > 0
        assert upper.sum() < 3 * factor  # three lines


@pytest.mark.parametrize("name", ["emoji", "random_sd"])
def test_nine_channels_of_which_five_mean_nothing_draw_what_four_draw(name, request):
    sd = request.getfixturevalue(name)
    beginner = holes.nine_channels(sd)
    assert beginner.unet.config.in_channels == 9 and sd.unet.config.in_channels == 4
    assert sd.unet.conv_in.weight.shape[1] == 4, "the model itself stays as it was"
    run = {"seed": 1, "num_inference_steps": 3, "guidance_scale": 3.0, "progress": False}
    picture, hole = Image.new("RGB", (sd.width, sd.height), "red"), Image.new("L", (sd.width, sd.height), 255)
    drawn = sdlearn.inpaint(beginner, picture, hole, "an owl", keep_outside=False, **run)
    assert holes.grey_levels(drawn, sdlearn.text_to_image(sd, "an owl", **run)) <= 1


def test_the_best_are_those_that_are_seen_from_all_sides():
    class Judge:
        subjects = ("owl", "rabbit")

        def probabilities(self, pictures):
            return (torch.stack([pictures, 1 - pictures], dim=1),)

    views = {"owl": torch.tensor([0.9, 0.6, 0.1]), "rabbit": torch.tensor([0.8, 0.3, 0.0])}  # seen as 0.2, 0.7, 1.0
    assert holes.best(Judge(), views, 2) == [1, 0]
    assert holes.best(None, views, 2) == [0, 1]
    assert holes.sure(None, views["owl"], ["owl"]) is None
    assert holes.sure(Judge(), views["owl"], ["rabbit", "owl"])[1].tolist() == pytest.approx([0.4, 0.6])
