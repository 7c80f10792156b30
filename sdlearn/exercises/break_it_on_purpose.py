"""Notebook 10: seventeen programs with one wrong line each, and three more for the reader to mend."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import torch
from torch import Tensor

from .. import pictures
from ..model import StableDiffusion
from ..samplers import SAMPLERS
from ..schedule import convert
from ..show.casebook import Case
from ..show.predict import predict
from ..text import encode_prompt
from . import Exercise, exercise, mutants
from . import guided_unet_loop as from_words
from . import img2img as from_picture
from .mutants import Machine, changed, diff, edited, source_of

SEED = 4

# How the pictures of a case are drawn, with a right machine and with a broken one.
FROM_NOISE = {"num_inference_steps": 16, "guidance_scale": 4.0}
FROM_SKETCH = FROM_NOISE | {"strength": 0.6}
WITH_LMS = {"num_inference_steps": 20, "guidance_scale": 3.0}
RUNS = {"from_noise": FROM_NOISE, "from_sketch": FROM_SKETCH, "with_lms": WITH_LMS}


@dataclass(frozen=True, eq=False)
class Bug:
    """One wrong line: what one sees of it, what one may guess, and what it is.

    complaint: what somebody says who has it. guesses: three causes, the right one first, each with what is said of it.
    part: the function that is changed, by its name in PARTS; wrong: text in its source -> what stands there instead.
    given: changes that the right function has, too. in_model: in the place of these, what is done to the model, and
    line: the change as one writes it for that model. where: where the line stands. beside: the model that both machines
    have. run, options: how the pictures are drawn. first: whether another picture is drawn before the broken one.
    searched: what people type in who have it. witness: a report of it, title and address. test: in TESTS.
    """

    complaint: str
    guesses: Mapping[str, str]
    cause: str
    where: str
    test: str
    searched: tuple[str, ...]
    witness: tuple[str, str]
    part: str = ""
    wrong: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    in_model: Callable[[StableDiffusion], StableDiffusion] | None = None
    line: Callable[[StableDiffusion], tuple[str, str]] | None = None
    beside: Callable[[StableDiffusion], StableDiffusion] = lambda sd: sd
    run: str = "from_noise"
    options: Mapping[str, float] = field(default_factory=dict)
    first: bool = False

    def right(self, sd: StableDiffusion) -> Machine:
        return Machine(sd, {self.part: self._changed(self.given)} if self.given else {})

    def broken(self, sd: StableDiffusion) -> Machine:
        """A new one at every call, with nothing in its memory."""
        if self.in_model:
            return Machine(self.in_model(sd))
        return Machine(sd, {self.part: self._changed({**self.given, **self.wrong})})

    def _changed(self, lines: Mapping[str, str]) -> Callable:
        return changed(mutants.PARTS[self.part], lines, slopes=[], nodes=[])

    def diff(self, sd: StableDiffusion) -> list[str]:
        if self.line:
            return [f"{sign} {line}" for sign, line in zip("-+", self.line(sd), strict=True)]
        return diff(edited(source_of(mutants.PARTS[self.part]), self.given), self.wrong)

    def draw(self, machine: Machine, seed: int) -> Tensor:
        options = RUNS[self.run] | self.options
        return getattr(mutants, self.run)(machine, seed, **options)


DIFFUSERS = "https://github.com/huggingface/diffusers"
BUGS: dict[str, Bug] = {
    # -- the start -----------------------------------------------------------------------------------------------------
    "flat": Bug(
        complaint="Soft, without detail, and in the wrong colours, whatever the seed.",
        guesses={
            "The noise is drawn with `torch.rand`": "Uniform numbers from 0 to 1 have mean 0.5 and size 0.29. There is "
            "too little noise to make detail from, and its mean pushes every picture to the same tint.",
            "There are too few steps": "More steps would help then. The right picture has no more than this one.",
            "The guidance scale is too low": "Then the prompt is heard less, but each seed keeps its own colours. Here "
            "all of them lean the same way.",
        },
        cause="The forward process ends in a *normal* distribution: mean 0, size 1. One letter is missing in `randn`.",
        part="first_noise", wrong={"torch.randn(": "torch.rand("}, where="first_noise, notebook 05",
        test="noise is normal",
        searched=("torch.rand or torch.randn diffusion", "stable diffusion flat blurry images every seed"),
        witness=("Randn instead of Rand?", "https://github.com/acids-ircam/diffusion_models/issues/8"),
    ),
    "stranger": Bug(
        complaint="The same picture, prompt and seed give my colleague another result.",
        guesses={
            "The two random draws are in the other order": "The pipeline draws the encoder's sample first and the "
            "noise second. Exchanged, both are good random numbers, but the noise is not the same noise.",
            "It is another processor or library version": "That changes the rounding: a grey level or two, and no ear.",
            "The noise has the wrong size": "Then the picture would be spoilt. This one is good, only it is another.",
        },
        cause="A seed names a *sequence* of numbers, not a tensor. Whoever draws something in between, or in another "
        "order, gets other noise from the same seed.",
        part="draws", where="draws, notebook 06", run="from_sketch",
        wrong={
            "    eps = torch.randn(shape, generator=generator)\n    noise = torch.randn(shape, generator=generator)":
            "    noise = torch.randn(shape, generator=generator)\n    eps = torch.randn(shape, generator=generator)",
        },
        test="encoder draws first",
        searched=("same seed different image img2img", "reproduce image from another ui same seed"),
        witness=("Remove extra randn call leading to break in reproducibility",
                 "https://github.com/invoke-ai/InvokeAI/pull/977"),
    ),
    "same": Bug(
        complaint="Image-to-image gives me nearly the same smooth picture, whatever the seed.",
        guesses={
            "The noise is added for an index in the place of a timestep": "`start_step` is 7, say, and `alpha_bar[7]` "
            "is hardly any noise. The network is told that there is a lot, and smooths away what it can find.",
            "The strength is too low": "Low strength leaves your picture as sharp as it was. This one was smoothed.",
            "The seed is not used": "Then all seeds would give exactly the same picture. These differ a little.",
        },
        cause="The index counts steps of this run; `alpha_bar` is a table over *training* timesteps.",
        part="noised_start", wrong={"t = timesteps[start_step]": "t = start_step"},
        where="noised_start, notebook 06", run="from_sketch", test="start holds what its step expects",
        searched=("img2img strength has no effect", "img2img blurry smooth output add_noise timestep"),
        witness=("Correct timestep for initial noise addition",
                 "https://github.com/CompVis/stable-diffusion/pull/533"),
    ),
    # -- pixels and latents --------------------------------------------------------------------------------------------
    "pale": Bug(
        complaint="Image-to-image washes my picture out.",
        guesses={
            "The encoder is given pixels from 0 to 1": "It was trained on -1 to 1. To it, black is middle grey, and "
            "the whole picture lies in the brighter half.",
            "The latents are not scaled": "That changes the contrast of everything. Here the light parts stay as they "
            "are, and the others become paler.",
            "The strength is too high": "More strength means more of the prompt. What is kept, it does not fade.",
        },
        cause="PyTorch's `ToTensor` ends at 0 to 1, and Stable Diffusion's autoencoder begins at -1 to 1.",
        part="encode", wrong={"sd.vae.encode(2 * image - 1)": "sd.vae.encode(image)"}, where="encode, notebook 06",
        run="from_sketch", test="there and back",
        searched=("stable diffusion img2img washed out colors", "vae encode image range [-1, 1] or [0, 1]"),
        witness=("Wrong image range before vae encoding", "https://github.com/black-forest-labs/flux/issues/133"),
    ),
    "burnt": Bug(
        complaint="Image-to-image ignores the prompt and burns the colours.",
        guesses={
            "The latents go into the loop without the scaling factor": "They are several times too large. The noise "
            "drowns in them, nothing is drawn anew, and the decoder gets more than it has ever seen.",
            "The guidance scale is too high": "That burns colours, too, but it listens to the prompt all the more.",
            "The strength is 0": "Then your picture comes back in its own colours.",
        },
        cause="The noise has size 1, so the latents must have size 1: multiply by `scaling_factor` on the way in.",
        part="encode", wrong={" * sd.scaling_factor": ""}, where="encode, notebook 06", run="from_sketch",
        beside=mutants.stretched, test="there and back",
        searched=("where does 0.18215 come from", "missing scaling factor latents"),
        witness=("Missing scaling factor of vqvae in unconditional ldm pipeline", f"{DIFFUSERS}/issues/5166"),
    ),
    "grey": Bug(
        complaint="Everything is faint and grey.",
        guesses={
            "The latents are decoded without dividing by the scaling factor": "The decoder sees a very weak picture: "
            "nearly what it makes of zeros.",
            "There are too few steps": "Unfinished pictures are blurred or stained. This one is finished, and faint.",
            "The pixels were brought to 0 to 1 twice": "That halves the contrast, and makes everything *light*.",
        },
        cause="In the loop latents have size 1; the decoder has a size of its own. Divide on the way out.",
        part="decode", wrong={"x / sd.scaling_factor": "x"}, where="decode, notebook 05", beside=mutants.stretched,
        test="there and back",
        searched=("0.18215 stable diffusion", "stable diffusion grey washed out decode latents"),
        witness=("Explanation of the 0.18215 factor", f"{DIFFUSERS}/issues/437"),
    ),
    "black": Bug(
        complaint="The picture is black, and nobody complains.",
        guesses={
            "A number does not fit into float16": "Its largest number is 65504; what is larger becomes infinite. A "
            "normalisation makes infinity minus infinity of that, which is not a number, and files show that as black.",
            "The safety filter has blacked it out": "Stable Diffusion 1's pipeline does that, and says so. This "
            "program has no filter.",
            "The latents are all zero": "Zeros decode to a flat grey, not to black.",
        },
        cause="The decoder computes in half precision, and inside it numbers grow large. (In a decoder as small as the "
        "course's they do not. So one of its layers was enlarged here, and the normalisation after it divides that out "
        "again: in float32 the picture is the same. In SDXL's decoder it happens by itself.)",
        in_model=mutants.in_half, beside=mutants.swollen, where="loading the model",
        line=lambda sd: ('vae = AutoencoderKL.from_pretrained(path, subfolder="vae")',
                         'vae = AutoencoderKL.from_pretrained(path, subfolder="vae", torch_dtype=torch.float16)'),
        test="pixels are finite",
        searched=("stable diffusion black image fp16", "RuntimeWarning: invalid value encountered in cast"),
        witness=("invalid value encountered in cast ... output black image", f"{DIFFUSERS}/issues/6815"),
    ),
    # -- words ---------------------------------------------------------------------------------------------------------
    "opposite": Bug(
        complaint="I get anything but what I ask for.",
        guesses={
            "The two texts are swapped in the batch": "Then guidance walks *away* from the prompt, and the higher the "
            "scale, the further.",
            "The prompt is not read": "Then all prompts would give the same picture. Here the prompt is heard very "
            "well, and avoided.",
            "It is the seed": "A seed decides which fox, not whether.",
        },
        cause="`chunk(2)` gives the answers in the order in which the texts went in: empty first, prompt second.",
        part="guided_loop", wrong={"torch.cat([empty, words])": "torch.cat([words, empty])"},
        where="guided_loop, notebook 05", test="scale one is the prompt",
        searched=("stable diffusion ignores prompt", "negative prompt acts like positive prompt"),
        witness=("SDXL ModelSampler mixes up positive and negative embeddings",
                 "https://github.com/Nerogar/OneTrainer/issues/775"),
    ),
    "stubborn": Bug(
        complaint="At guidance scale 0 the prompt should not count, and it does.",
        guesses={
            "Guidance starts at the wrong one of the two answers": "From `cond` on, the scale counts one too many: 0 "
            "means 1, and 4 means 5.",
            "Scales below 1 are taken for 1": "diffusers does that. This loop is not diffusers': it adds what it is "
            "told.",
            "The prompt comes in through the negative prompt": "There is none here: the other text is empty.",
        },
        cause="The paper's own formula starts at `cond`, and its scale is one smaller than everybody else's. At the "
        "usual scales the mistake is a little too much guidance, which nobody sees. At 0 and 1 it shows.",
        part="guide", wrong={"return uncond +": "return cond +"}, where="guide, notebook 05",
        options={"guidance_scale": 0.0}, test="scale one is the prompt",
        searched=("classifier free guidance formula 1 + w", "cond + scale * (cond - uncond) or uncond"),
        witness=("about the classifier-free guidance sampling code?",
                 "https://github.com/CompVis/stable-diffusion/issues/796"),
    ),
    # -- the loop ------------------------------------------------------------------------------------------------------
    "shards": Bug(
        complaint="Hard shards of colour in the place of a picture.",
        guesses={
            "The network is told the count of the step in the place of the timestep": "At the start it is told t = 0: "
            "no noise to speak of. So it leaves nearly all of it where it is.",
            "The guidance scale is far too high": "That burns colours, and the subject stays where it is.",
            "The noise was not scaled": "This sampler needs no scaling: its latents keep size 1 all the way.",
        },
        cause="The index counts this run's steps from 0 up; the network knows *training* timesteps, from 999 down.",
        part="guided_loop", wrong={"for t, now, after in plan:": "for t, (_, now, after) in enumerate(plan):"},
        where="guided_loop, notebook 05", test="loop shows what it tells",
        searched=("enumerate(scheduler.timesteps) unet i or t", "passing integer indices as timesteps"),
        witness=("Passing integer indices as timesteps is deprecated", f"{DIFFUSERS}/pull/1019"),
    ),
    "dark": Bug(
        complaint="Blurred, dark and too colourful.",
        guesses={
            "The step is taken twice for each answer": "The second time it takes away noise that is gone already, and "
            "with it what was to become detail.",
            "There are too few steps": "The right picture has as many.",
            "The pixels are shown in the wrong range": "That makes pictures dark, too, but leaves them sharp.",
        },
        cause="One answer of the network, one step. Whoever calls `step` once for a preview and once to go on, takes "
        "two. (diffusers' samplers with an inner counter then stop with an IndexError; DDIM does not notice.)",
        part="guided_loop",
        wrong={
            "x = ddim_step(x, guide(uncond, cond, scale), now, after)":
            "x = ddim_step(x, guide(uncond, cond, scale), now, after)\n"
            "        x = ddim_step(x, guide(uncond, cond, scale), now, after)",
        },
        where="guided_loop, notebook 05", options={"num_inference_steps": 8}, test="loop shows what it tells",
        searched=("scheduler.step called twice", "IndexError: index 51 is out of bounds for dimension 0 with size 51"),
        witness=("Stable Diffusion Deep Dive fails with IndexError", "https://github.com/fastai/diffusion-nbs/issues/42"),
    ),
    "noise": Bug(
        complaint="Every preview was fine, and the last picture is noise.",
        guesses={
            "The last step looks up a negative timestep": "In Python `alpha_bar[-61]` is no error. It is an entry near "
            "the *end* of the table, nearly pure noise, and there the last step leads.",
            "The network needs more steps": "The previews were fine, so it had enough.",
            "The decoder is broken": "It has decoded the previews.",
        },
        cause="After the last timestep no other follows, and the end needs a rule of its own: `final_alpha_bar`.",
        part="plan",
        wrong={"schedule.final_alpha_bar]": "schedule.alpha_bar[timesteps[-1] - stride].item()]"},
        where="plan, notebook 05", test="loop shows what it tells",
        searched=("ddim last step noise", "negative previous timestep DDIMScheduler alphas_cumprod"),
        witness=("Negative Previous timestep in DDIMScheduler", f"{DIFFUSERS}/issues/5921"),
    ),
    "grainy": Bug(
        complaint="With few steps there is grain, and only with this spacing.",
        guesses={
            "The list of timesteps and the length of a step do not agree": "Each step lands a little above the level "
            "that the network is told next. What it does not expect, it leaves.",
            "There are too few steps": "The right picture has as many.",
            "Fresh noise is added in every step": "The following steps take that away again, and the last adds none.",
        },
        cause="With `linspace` the timesteps are (T - 1) / (n - 1) apart, and the step goes T // n. Look the next "
        "timestep up in the list. diffusers' DDIM (in version 0.42) does not. (A forgotten offset is of the same "
        "family, and nobody sees it at all.)",
        part="plan",
        given={"[k * stride + schedule.steps_offset for k in reversed(range(n))]": 'schedule.timesteps(n, "linspace")'},
        wrong={
            "    return list(zip(timesteps, levels, levels[1:], strict=False))":
            "    ends = [t - stride for t in timesteps]\n"
            "    after = [schedule.alpha_bar[t].item() if t >= 0 else schedule.final_alpha_bar for t in ends]\n"
            "    return list(zip(timesteps, levels, after, strict=False))",
        },
        where="plan, notebook 05, with linspace", options={"num_inference_steps": 5}, test="loop shows what it tells",
        searched=("DDIM timestep_spacing linspace noisy", "ddim previous timestep wrong"),
        witness=("DDIMScheduler.step() logic mismatches set_timesteps() list", f"{DIFFUSERS}/issues/12633"),
    ),
    "dull": Bug(
        complaint="With the new checkpoint all colours are dull.",
        guesses={
            "The network predicts one thing and the config says another": "The answer is noise and is read as a "
            "velocity, or the other way round. Both have the same shape and size, so nothing fails.",
            "The scaling factor is that of another model": "Then the round trip of a photograph would be dull, too.",
            "The guidance scale is too low": "Then the right picture would be dull, too: it has the same scale.",
        },
        cause="What a network predicts stands in no weight. It stands in the scheduler's config, or nowhere.",
        in_model=mutants.read_otherwise, where="scheduler_config.json",
        line=lambda sd: tuple(f'"prediction_type": "{model.schedule.prediction_type}"'
                              for model in (sd, mutants.read_otherwise(sd))),
        test="pure noise shows a picture",
        searched=("v_prediction model noisy images", "stable diffusion 2.1 brown noise prediction_type"),
        witness=("V-pred models are treated as epsilon prediction",
                 "https://github.com/invoke-ai/InvokeAI/issues/7495"),
    ),
    # -- samplers that count in sigma, or remember ---------------------------------------------------------------------
    "unseen": Bug(
        complaint="DDIM draws it. LMS, in the same loop, does not.",
        guesses={
            "The network's input is not scaled": "LMS keeps the picture at full strength, so at the start its latents "
            "are many times larger than 1. The network was trained on inputs of size 1, and is shown these.",
            "LMS needs more steps": "The right picture is LMS with as many.",
            "LMS does not bear this guidance": "At a high scale that is so. The right picture has the same scale.",
        },
        cause="Euler, Heun and LMS count noise in sigma. Before every call of the network: "
        "`scheduler.scale_model_input(latents, t)`. For DDIM it does nothing, so a loop written for DDIM lacks it.",
        part="answer", wrong={"seen = x * level.input_scale": "seen = x"}, where="the call of the network",
        run="with_lms", test="sampler shows what it tells",
        searched=("scale_model_input should be called before step", "LMSDiscreteScheduler noisy images euler"),
        witness=("The scale_model_input function should be called before step", f"{DIFFUSERS}/issues/9084"),
    ),
    "second": Bug(
        complaint="The first picture is right. The second, by the same sampler, is not.",
        guesses={
            "The sampler remembers the first picture": "LMS mixes the present slope with the last three. For the "
            "second picture's first steps these are the first one's.",
            "The random generator went on": "Then the second picture would be another one, and as good.",
            "The memory of the GPU is full": "That stops a program. It does not change numbers.",
        },
        cause="What a sampler remembers belongs to one picture. In diffusers `set_timesteps` clears the memory.",
        part="lms", wrong={"slopes, nodes = [], []": "global slopes, nodes  # made once, for all pictures"},
        where="LMS", run="with_lms", first=True, test="same seed same picture",
        searched=("second image is noise diffusers scheduler", "reuse scheduler between batches"),
        witness=("Error thrown in dpmsolver_multistep when re-used", f"{DIFFUSERS}/issues/8711"),
    ),
    "specks": Bug(
        complaint="Just a touch of image-to-image, and there are specks all over.",
        guesses={
            "LMS counts steps that were not taken": "It takes the weights of a fourth-order step and has one slope to "
            "weigh. Its first step goes more than twice too far.",
            "Too much noise was added": "DDIM would show that as well, and DDIM is fine.",
            "Three steps are too few": "The right picture takes three as well.",
        },
        cause="The order of the formula has to come from what is remembered, not from the index of the step. "
        "diffusers' LMS (in version 0.42) does this. DDIM, Euler and DPM++ may begin anywhere.",
        part="lms", where="LMS, begun at the 18th of 20 steps",
        wrong={
            "slopes, nodes = [], []":
            "slopes, nodes = [], [level.sigma for level in levels[:start]][::-1]  # also of steps not taken",
        },
        run="with_lms", options={"start_step": 17}, test="sampler shows what it tells",
        searched=("img2img noise left LMS", "LMSDiscreteScheduler img2img artifacts low strength"),
        witness=("LMS scheduler leaves a lot of noise leftover", f"{DIFFUSERS}/issues/5630"),
    ),
}  # fmt: skip


# -- the cases ---------------------------------------------------------------------------------------------------------


class Casebook:
    """The bugs with their pictures on one model; each is drawn when it is first asked for."""

    def __init__(self, sd: StableDiffusion):
        self.sd = sd
        self._pictures: dict[tuple, Tensor] = {}
        self._models: dict[Callable, StableDiffusion] = {}
        self.alarms: dict[str, list[str]] = {}  # warnings while a broken machine drew

    def __getitem__(self, name: str) -> Case:
        bug = BUGS[name]
        right, broken = (pictures.to_images(as_a_file_shows_it(picture))[0] for picture in self.drawn(name))
        test = mutants.TESTS[bug.test]
        return Case(
            number=list(BUGS).index(name) + 1, complaint=bug.complaint, right=right, broken=broken,
            question=predict("What is wrong in the broken program?", _shuffled(bug), right=next(iter(bug.guesses))),
            cause=bug.cause, where=bug.where, line=tuple(bug.diff(self.sd)), cost=self._cost_in_words(name),
            searched=bug.searched, witness=bug.witness, test=(test.__doc__, mutants.code_of(test)),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Case]:
        return (self[name] for name in BUGS)

    def drawn(self, name: str, seed: int = SEED) -> tuple[Tensor, Tensor]:
        """The right picture and the broken one, (1, 3, H, W), as they come from the decoder."""
        bug = BUGS[name]
        run = bug.run, seed, *sorted((RUNS[bug.run] | bug.options).items())
        # The right picture is the same whatever model the machines have, so it is drawn once for several bugs.
        right = self._once((*run, *bug.given), lambda: bug.draw(bug.right(self.sd), seed))
        return right, self._once((*run, name), lambda: self._broken(name, seed))

    def cost(self, name: str, seeds: Sequence[int] = (SEED,)) -> tuple[float, float]:
        """Grey levels, of 255, between the two pictures: on average, and where they differ most; mean over seeds."""
        found = [grey_levels(*self.drawn(name, seed)) for seed in seeds]
        return tuple(sum(values) / len(found) for values in zip(*found, strict=True))

    def stops(self, test: str, name: str) -> bool:
        """Whether a test passes the right machine of a bug, and not the broken one."""
        bug, holds = BUGS[name], mutants.TESTS[test]
        model = self.model(name)
        return bool(holds(bug.right(model))) and not holds(bug.broken(model))

    def model(self, name: str) -> StableDiffusion:
        """The model that both machines of a case have; it draws what `sd` draws."""
        beside = BUGS[name].beside
        if beside not in self._models:
            self._models[beside] = beside(self.sd)
        return self._models[beside]

    def _broken(self, name: str, seed: int) -> Tensor:
        bug, machine = BUGS[name], BUGS[name].broken(self.model(name))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            if bug.first:
                bug.draw(machine, seed + 5)
            picture = bug.draw(machine, seed)
        self.alarms.setdefault(name, []).extend(str(warning.message) for warning in said)
        return picture

    def _once(self, key: tuple, draw: Callable[[], Tensor]) -> Tensor:
        if key not in self._pictures:
            self._pictures[key] = draw()
        return self._pictures[key]

    def _cost_in_words(self, name: str) -> str:
        mean, most = self.cost(name)
        said = f"{mean:.0f} of 255 grey levels on average, {most:.0f} where it is largest."
        if BUGS[name].beside is not mutants.stretched:
            return said
        undivided = Machine(self.sd, {"decode": from_words.not_divided})
        own, _ = grey_levels(self.drawn("grey")[0], self._once(("own",), lambda: BUGS["grey"].draw(undivided, SEED)))
        factor = self.sd.scaling_factor
        return (
            f"{said} Here the model is written with Stable Diffusion 1's scaling factor, 0.18215, which makes its "
            f"latents {factor / 0.18215:.1f} times as long and changes no picture. With its own factor, {factor:.3g}, "
            f"forgetting the division costs {own:.1f} grey levels on average."
        )


def grey_levels(a: Tensor, b: Tensor) -> tuple[float, float]:
    """How far two pictures are apart in grey levels of 255: on average, and where they differ most."""
    apart = 127.5 * (as_a_file_shows_it(a) - as_a_file_shows_it(b)).abs()
    return apart.mean().item(), apart.max().item()


def as_a_file_shows_it(picture: Tensor) -> Tensor:
    """A picture as a file shows it: clipped, and black where a pixel is not a number."""
    return picture.float().nan_to_num(-1.0, -1.0, -1.0).clamp(-1, 1)


def _shuffled(bug: Bug) -> dict[str, str]:
    """The guesses in alphabetical order, so that the right one has no place of its own."""
    return dict(sorted(bug.guesses.items()))


# -- three programs to mend --------------------------------------------------------------------------------------------


def names_what_is_left(one: Exercise, bugs: Mapping[str, tuple[str, str]]) -> None:
    """The mistakes of a program with several bugs: every choice of those that may still be in it.

    bugs: what is wrong -> the right text in the answer's source, and the wrong one.
    """
    for count in range(len(bugs), 0, -1):
        for left in combinations(bugs, count):
            wrong = changed(one.answer, dict(bugs[name] for name in left))
            number = {1: "one bug is", 2: "two bugs are", 3: "all three bugs are"}[count]
            one.mistake(f"{number} still in it: {'; '.join(left)}.")(wrong)


@exercise(
    minutes=5, difficulty=1, trains="finding bugs in the start of image-to-image", tolerance=1e-4,
    hint="Ask of each line what it is given and what it should be given. What range does the encoder read? What kind "
    "of noise is it? Are alpha_bar and 1 - alpha_bar amplitudes?",
)  # fmt: skip
def start(sd, image, seed, t):
    posterior = sd.vae.encode(2 * image - 1).latent_dist
    generator, shape = torch.Generator().manual_seed(seed), posterior.mean.shape
    z = posterior.mean + posterior.std * torch.randn(shape, generator=generator).to(sd.device)
    z = z * sd.scaling_factor
    noise = torch.randn(shape, generator=generator).to(sd.device)
    alpha_bar = sd.schedule.alpha_bar[t]
    x = alpha_bar**0.5 * z
    x = x + (1 - alpha_bar) ** 0.5 * noise
    return x


@start.given
def _(sd):
    yield sd, (pictures.to_tensor(from_picture.sketch(sd)).to(sd.device) + 1) / 2, 3, sd.schedule.timesteps(5)[2]


names_what_is_left(
    start,
    {
        "the encoder is given pixels from 0 to 1": ("sd.vae.encode(2 * image - 1)", "sd.vae.encode(image)"),
        "the noise is uniform": ("noise = torch.randn(", "noise = torch.rand("),
        "the square roots are missing": (
            "x = alpha_bar**0.5 * z\n    x = x + (1 - alpha_bar) ** 0.5 * noise",
            "x = alpha_bar * z\n    x = x + (1 - alpha_bar) * noise",
        ),
    },
)


@exercise(
    minutes=6, difficulty=2, trains="finding bugs in the guided loop",
    hint="Which text comes first? What does the network have to be told? At which of the two answers does guidance "
    "start?",
    picture=from_words.picture,
)  # fmt: skip
def loop(sd, x, empty, words, timesteps, levels, scale):
    both, s = torch.cat([empty, words]), sd.schedule
    for k, t in enumerate(timesteps):
        uncond, cond = sd.unet(torch.cat([x, x]), t, encoder_hidden_states=both).sample.chunk(2)
        guided = uncond + scale * (cond - uncond)
        x0, eps = s.to_x0(x, guided, t), s.to_eps(x, guided, t)
        x = levels[k + 1] ** 0.5 * x0 + (1 - levels[k + 1]) ** 0.5 * eps
    return x


@loop.given
def _(sd):
    noise = from_words.first_noise.answer(3, (1, *sd.latent_shape())).to(sd.device)
    timesteps, s = sd.schedule.timesteps(3), sd.schedule
    levels = [*(s.alpha_bar[t].item() for t in timesteps), s.final_alpha_bar]
    yield sd, noise, encode_prompt(sd, ""), encode_prompt(sd, from_words.PROMPT), timesteps, levels, 4.0


names_what_is_left(
    loop,
    {
        "the two texts are swapped": ("torch.cat([empty, words])", "torch.cat([words, empty])"),
        "the network is told the count of the step": ("sd.unet(torch.cat([x, x]), t,", "sd.unet(torch.cat([x, x]), k,"),
        "guidance starts at cond": ("guided = uncond +", "guided = cond +"),
    },
)


@exercise(
    minutes=7, difficulty=3, trains="finding bugs in a sampler that counts in sigma",
    hint="At the start the latents are as large as the noise. The network wants to be shown size 1 at every step. And "
    "a step goes from now to after, where sigma is smaller.",
    picture=from_words.picture,
)  # fmt: skip
def euler(sd, noise, both, levels, scale):
    x = noise * levels[0].sigma
    for now, after in pairwise(levels):
        seen = x * now.input_scale
        uncond, cond = sd.unet(torch.cat([seen, seen]), now.timestep, encoder_hidden_states=both).sample.chunk(2)
        guided = uncond + scale * (cond - uncond)
        _, eps = convert(x, guided, now.signal, now.noise, sd.schedule.prediction_type)
        x = x + (after.sigma - now.sigma) * eps
    return x


@euler.given
def _(sd):
    noise = from_words.first_noise.answer(3, (1, *sd.latent_shape())).to(sd.device)
    levels = SAMPLERS["euler"].plan(sd.schedule, 3).levels
    yield sd, noise, encode_prompt(sd, ["", from_words.PROMPT]), levels, 3.0


names_what_is_left(
    euler,
    {
        "the first latents are too small": ("x = noise * levels[0].sigma", "x = noise"),
        "the network's input is not scaled": ("seen = x * now.input_scale", "seen = x"),
        "the steps go uphill": ("(after.sigma - now.sigma)", "(now.sigma - after.sigma)"),
    },
)
