"""One wrong line at a time: the machine of notebooks 05 and 06 with a part exchanged, and tests that notice it.

    wrong = {"torch.randn(": "torch.rand("}
    broken = Machine(sd, {"first_noise": changed(from_words.first_noise.answer, wrong)})
    from_noise(broken, seed=4, num_inference_steps=16, guidance_scale=4.0)          # the picture
    TESTS["noise is normal"](broken)                                                # False

Testers call such a program a mutant, and ask of a test how many mutants it stops (DeMillo, Lipton, Sayward 1978). A
mutant is made from the source of the right function, so what runs is what `diff` shows.
"""

from __future__ import annotations

import ast
import copy
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import Tensor

from ..model import StableDiffusion
from ..samplers import SAMPLERS, lms_weights
from ..sampling import solve
from ..text import encode_prompt
from . import final
from . import guided_unet_loop as from_words
from . import img2img as from_picture

PROMPT = from_words.PROMPT
LARGEST = 65504  # of float16


# -- changing a line ---------------------------------------------------------------------------------------------------


def source_of(function: Callable) -> str:
    """The source of a function, without its decorators."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    (tree,) = ast.parse(source).body
    return "\n".join(source.splitlines()[tree.lineno - 1 :])


def edited(source: str, lines: Mapping[str, str]) -> str:
    """The source with texts replaced, each of which must stand in it once (or ValueError)."""
    for old, new in lines.items():
        if source.count(old) != 1:
            raise ValueError(f"{old!r} stands {source.count(old)} times in the source; it must stand there once.")
        source = source.replace(old, new)
    return source


def changed(function: Callable, lines: Mapping[str, str], **names) -> Callable:
    """The function with texts of its source replaced. names: global names that the new text needs."""
    place = vars(sys.modules[function.__module__]) | names
    exec(compile(edited(source_of(function), lines), f"<{function.__name__}, changed>", "exec"), place)
    return place[function.__name__]


def diff(source: str, lines: Mapping[str, str]) -> list[str]:
    """What `edited` does to the source: each line that it changes, after "- ", and what comes of it, after "+ "."""
    found = []
    for old, new in lines.items():
        begin = source.rindex("\n", 0, source.index(old)) + 1
        end = source.find("\n", source.index(old) + len(old))
        touched = source[begin : end if end >= 0 else None]
        for sign, text in (("-", touched), ("+", touched.replace(old, new))):
            found += [f"{sign} {line}" for line in textwrap.dedent(text).splitlines()]
    return found


# -- the machine -------------------------------------------------------------------------------------------------------


def plan(schedule, n):
    """The plan of notebook 05: rows of (timestep, alpha_bar there, alpha_bar where the step leads)."""
    stride = schedule.num_train_timesteps // n
    timesteps = [k * stride + schedule.steps_offset for k in reversed(range(n))]
    levels = [*(schedule.alpha_bar[t].item() for t in timesteps), schedule.final_alpha_bar]
    return list(zip(timesteps, levels, levels[1:], strict=False))


def answer(sd, x, level, states, scale):
    """What the network says of x at a `Level`, guidance included, for a sampler that counts in sigma."""
    seen = x * level.input_scale
    uncond, cond = sd.unet(torch.cat([seen, seen]), level.timestep, encoder_hidden_states=states).sample.chunk(2)
    return from_words.guide.answer(uncond, cond, scale)


def lms(x, levels, start=0):
    """`samplers.lms`, told all levels of a run and how many of its steps are skipped."""
    slopes, nodes = [], []
    for now, after in pairwise(levels[start:]):
        x, p = yield x, now
        slopes, nodes = [p.eps, *slopes][:4], [now.sigma, *nodes][:4]
        weights = lms_weights(tuple(nodes), after.sigma)
        x = x + sum(w * slope for w, slope in zip(weights, slopes, strict=False))
    return x


PARTS: Mapping[str, Callable] = {
    **{name: getattr(from_words, name).answer for name in ("first_noise", "guide", "guided_loop", "decode")},
    **{name: getattr(from_picture, name).answer for name in ("draws", "encode", "noised_start")},
    "plan": plan,
    "answer": answer,
    "lms": lms,
}


@dataclass(frozen=True, eq=False)
class Machine:
    """A model and the functions that draw with it; `parts` exchanges some of those in PARTS."""

    sd: StableDiffusion
    parts: Mapping[str, Callable] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Callable:
        return (PARTS | self.parts)[name]

    def some(self, *names: str) -> dict[str, Callable]:
        return {name: self[name] for name in names}


def from_noise(machine: Machine, seed: int, num_inference_steps: int, guidance_scale: float) -> Tensor:
    """The picture (1, 3, H, W) that notebook 05's machine draws of PROMPT."""
    parts = machine.some("first_noise", "plan", "guide", "guided_loop", "decode")
    return from_words.draw(machine.sd, PROMPT, seed, num_inference_steps, guidance_scale, **parts)


def from_sketch(
    machine: Machine, seed: int, num_inference_steps: int, guidance_scale: float, strength: float
) -> Tensor:
    """The picture (1, 3, H, W) that notebook 06's machine makes of its sketch."""
    run = final.unit_picture(machine.sd), PROMPT, strength, seed, num_inference_steps, guidance_scale
    return final.by_parts(machine.sd, *run, **machine.some("draws", "encode", "noised_start", "decode"))


@torch.no_grad()
def with_lms(
    machine: Machine, seed: int, num_inference_steps: int, guidance_scale: float, start_step: int = 0
) -> Tensor:
    """The picture (1, 3, H, W) that LMS draws from noise, or with a start_step of notebook 06's sketch."""
    sd, shape = machine.sd, (1, *machine.sd.latent_shape())
    run = SAMPLERS["lms"].plan(sd.schedule, num_inference_steps)
    if start_step:
        eps, noise = (numbers.to(sd.device) for numbers in machine["draws"](shape, seed))
        x = run.levels[start_step].add_noise(machine["encode"](sd, final.unit_picture(sd), eps), noise)
    else:
        x = machine["first_noise"](seed, shape).to(sd.device) * run.init_scale
    states = encode_prompt(sd, ["", PROMPT])
    steps = solve(
        machine["lms"](x, run.levels, start_step),
        lambda x, level: machine["answer"](sd, x, level, states, guidance_scale),
        sd.schedule.prediction_type,
    )
    *_, last = steps
    return machine["decode"](sd, last.latents)


# -- the same model, written otherwise ---------------------------------------------------------------------------------


@torch.no_grad()
def stretched(sd: StableDiffusion, scaling_factor: float = 0.18215) -> StableDiffusion:
    """A model that draws the same pictures with an autoencoder of another scaling factor: its latents are longer.

    What the encoder's last convolution gives is multiplied, what the decoder's first one gets is divided.
    """
    vae, longer = copy.deepcopy(sd.vae), sd.scaling_factor / scaling_factor
    channels = sd.latent_channels
    for numbers in (vae.quant_conv.weight, vae.quant_conv.bias):
        numbers[:channels] *= longer
    vae.quant_conv.bias[channels:] += 2 * torch.tensor(longer).log()  # these are logarithms of variances
    vae.post_quant_conv.weight /= longer
    vae.register_to_config(scaling_factor=scaling_factor)
    return replace(sd, vae=vae)


@torch.no_grad()
def swollen(sd: StableDiffusion) -> StableDiffusion:
    """A model that draws the same pictures, with numbers inside its decoder that float16 does not hold.

    One convolution gives a power of ten times as much, and the normalisation behind it divides that out again.
    """
    vae, peaks = copy.deepcopy(sd.vae), []
    layer = vae.decoder.mid_block.resnets[0].conv1
    hook = layer.register_forward_hook(lambda module, args, out: peaks.append(out.abs().max().item()))
    from_words.decode.answer(replace(sd, vae=vae), torch.ones(1, *sd.latent_shape(), device=sd.device))
    hook.remove()
    factor = 1.0
    while peaks[0] * factor < 10 * LARGEST:
        factor *= 10
    for numbers in (layer.weight, layer.bias):
        numbers *= factor
    return replace(sd, vae=vae)


def in_half(sd: StableDiffusion) -> StableDiffusion:
    """The model with an autoencoder whose layers each hand on their result in float16, as on a GPU."""
    vae = copy.deepcopy(sd.vae)
    for layer in vae.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda module, args, out: out.half().to(out.dtype))
    return replace(sd, vae=vae)


def read_otherwise(sd: StableDiffusion) -> StableDiffusion:
    """The model with a config that says v where its network predicts the noise, or the other way round."""
    other = {"epsilon": "v_prediction"}.get(sd.schedule.prediction_type, "epsilon")
    return replace(sd, schedule=replace(sd.schedule, prediction_type=other, rescale_betas_zero_snr=False))


# -- tests: what has to hold of a right machine, mostly without any network --------------------------------------------


class Formula:
    """Stands in the place of a UNet: answers by a formula, and remembers what it was told and shown."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]):
        self.formula, self.told, self.shown = formula, [], []

    def __call__(self, x: Tensor, timestep, encoder_hidden_states: Tensor) -> SimpleNamespace:
        self.told.append(float(timestep))
        self.shown.append(x[-1:])
        return SimpleNamespace(sample=self.formula(x, encoder_hidden_states))


EPS = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
EMPTY, WORDS = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)  # states that a formula can tell apart


def beside(machine: Machine, unet: Formula) -> StableDiffusion:
    """The machine's model with a formula for a network, whose answer is the noise."""
    schedule = replace(machine.sd.schedule, prediction_type="epsilon", rescale_betas_zero_snr=False)
    return replace(machine.sd, unet=unet, schedule=schedule)


def right_about(eps: Tensor) -> Formula:
    """A network that is always right: it answers with the noise that really is in x, and the picture is 0."""
    return Formula(lambda x, states: eps.expand_as(x))


def held(x: Tensor) -> float:
    """How much of EPS x holds."""
    return ((x * EPS).sum() / EPS.square().sum()).item()


def near(found: float, expected: float) -> bool:
    return abs(found - expected) < 1e-3


def noise_is_normal(machine):
    """The first noise has mean 0 and size 1."""
    noise = machine["first_noise"](0, (1, 4, 64, 64))
    return abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05


def encoder_draws_first(machine):
    """The first numbers of a seed go to the encoder, as in the pipeline."""
    eps, _ = machine["draws"]((1, 4, 8, 8), 7)
    return torch.equal(eps, torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7)))


def start_holds_what_its_step_expects(machine):
    """The noised start holds as much noise as the network will be told."""
    s = machine.sd.schedule
    timesteps = s.timesteps(10)
    x = machine["noised_start"](0 * EPS, EPS, timesteps, 6, s.alpha_bar)
    return near(held(x), s.noise[timesteps[6]])


def there_and_back(machine):
    """Through an autoencoder that does nothing, a picture comes back in the range -1 to 1."""
    nothing = SimpleNamespace(
        encode=lambda x: SimpleNamespace(latent_dist=SimpleNamespace(mean=x, std=0 * x)),
        post_quant_conv=lambda z: z,
        decoder=lambda z: z,
        config=machine.sd.vae.config,
    )
    sd, image = replace(machine.sd, vae=nothing), torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    back = machine["decode"](sd, machine["encode"](sd, image, 0.0))
    return torch.allclose(back, 2 * image - 1, atol=1e-3)


@torch.no_grad()
def pixels_are_finite(machine):
    """The decoder gives numbers, and no NaN among them."""
    latents = torch.ones(1, *machine.sd.latent_shape(), device=machine.sd.device)
    return torch.isfinite(machine["decode"](machine.sd, latents)).all()


def scale_one_is_the_prompt(machine):
    """A network says 1 to the prompt and 0 to the empty text: then the guided answer is the scale."""
    sd = beside(machine, Formula(lambda x, states: states[:, :1, :1, None].expand_as(x)))
    rows, keep = machine["plan"](sd.schedule, 3), lambda x, eps, now, after: eps
    run = {"guide": machine["guide"], "ddim_step": keep}
    guided = [machine["guided_loop"](sd, EPS, EMPTY, WORDS, rows, scale, **run).mean() for scale in (0.0, 1.0, 4.0)]
    return all(map(near, guided, (0.0, 1.0, 4.0)))


def loop_shows_what_it_tells(machine):
    """Beside a network that is always right, x holds at every step the noise that the network is told."""
    unet = right_about(EPS)
    sd = beside(machine, unet)
    rows, s = machine["plan"](sd.schedule, 10), sd.schedule
    end = machine["guided_loop"](sd, (1 - rows[0][1]) ** 0.5 * EPS, EMPTY, WORDS, rows, 1.0)
    expected = [s.noise[round(t)] for t in unet.told]
    return all(map(near, map(held, unet.shown), expected)) and near(held(end), (1 - s.final_alpha_bar) ** 0.5)


def sampler_shows_what_it_tells(machine):
    """The same of LMS, begun near the end."""
    unet, start = right_about(EPS), 7
    sd, states = beside(machine, unet), torch.cat([EMPTY, WORDS])
    levels = SAMPLERS["lms"].plan(sd.schedule, 10).levels
    solver = machine["lms"](levels[start].noise * EPS, levels, start)
    *_, last = solve(solver, lambda x, level: machine["answer"](sd, x, level, states, 1.0))
    expected = [level.noise * level.input_scale for level in levels[start:-1]]
    return all(map(near, map(held, unet.shown), expected)) and near(held(last.latents), 0.0)


def same_seed_same_picture(machine):
    """The same noise ends in the same picture, whatever was drawn in between."""
    sd, states = beside(machine, Formula(lambda x, states: x.sin())), torch.cat([EMPTY, WORDS])
    levels, ends = SAMPLERS["lms"].plan(sd.schedule, 10).levels, []
    for noise in (EPS, -EPS.flip(-1), EPS):
        solver = machine["lms"](levels[0].sigma * noise, levels)
        *_, last = solve(solver, lambda x, level: machine["answer"](sd, x, level, states, 1.0))
        ends.append(last.latents)
    return torch.equal(ends[0], ends[2])


@torch.no_grad()
def pure_noise_shows_a_picture(machine):
    """What a trained network makes out in pure noise is a picture, and not that noise again."""
    sd, t = machine.sd, machine.sd.schedule.num_train_timesteps - 1
    x = torch.randn(1, *sd.latent_shape(), generator=torch.Generator().manual_seed(0)).to(sd.device)
    x0 = sd.schedule.to_x0(x, sd.unet(x, t, encoder_hidden_states=encode_prompt(sd, "")).sample, t)
    return torch.corrcoef(torch.stack([x0.flatten(), x.flatten()]))[0, 1].abs() < 0.8


TESTS: Mapping[str, Callable[[Machine], bool]] = {
    test.__name__.replace("_", " "): test
    for test in (
        noise_is_normal, encoder_draws_first, start_holds_what_its_step_expects, there_and_back, pixels_are_finite,
        scale_one_is_the_prompt, loop_shows_what_it_tells, sampler_shows_what_it_tells, same_seed_same_picture,
        pure_noise_shows_a_picture,
    )
}  # fmt: skip


def code_of(test: Callable) -> str:
    """The lines of a test, without its first two, which say what it is for."""
    lines = source_of(test).splitlines()[2:]
    return textwrap.dedent("\n".join(lines))
