"""Notebook 11: what a real checkpoint is made of, what fits on which card, and what its network says."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor, nn

from .. import autoencoder
from ..hub import costs
from ..model import StableDiffusion
from ..pictures import to_images, to_tensor
from ..sampling import denoise
from ..text import encode_prompt
from . import exercise

# -- what a layer holds ------------------------------------------------------------------------------------------------


@exercise(
    minutes=4, difficulty=2, trains="counting a layer's parameters from its config", tolerance=1e-9,
    hint="A matrix from a numbers to b numbers holds a * b. Two of the four begin at the picture and end there; which "
    "two begin at the words?",
)  # fmt: skip
def cross_attention(channels, width):
    query = channels * channels
    key = value = width * channels
    out = channels * channels + channels
    return query + key + value + out


@cross_attention.given
def _():
    return [(320, 768), (1280, 1024), (192, 128)]


@cross_attention.mistake("every matrix has a bias in yours: query, key and value have none, only the last one has.")
def _(channels, width):
    return cross_attention.answer(channels, width) + 3 * channels


@cross_attention.mistake("the bias of the last matrix is missing: one number for each channel.")
def _(channels, width):
    return cross_attention.answer(channels, width) - channels


@cross_attention.mistake(
    "that is self-attention: key and value are made of the words, so they begin at `width` numbers."
)
def _(channels, width):
    return 4 * channels**2 + channels


@cross_attention.mistake(
    "the query is made of the picture: it begins at `channels` numbers, and only key and value at `width`."
)
def _(channels, width):
    return 3 * width * channels + channels**2 + channels


@cross_attention.mistake("the last matrix is missing: what the heads bring back is mixed once more, with a bias.")
def _(channels, width):
    return channels**2 + 2 * width * channels


@cross_attention.mistake("key and value are two matrices, and one of them is missing.")
def _(channels, width):
    return cross_attention.answer(channels, width) - width * channels


# -- what a run holds --------------------------------------------------------------------------------------------------


@exercise(
    minutes=4, difficulty=1, trains="the memory of a run, before you start it", tolerance=1e-9,
    hint="A float16 number has 16 bits, which are two bytes. Which part is the exception? What does not grow with the "
    "number of pictures?",
)  # fmt: skip
def run_bytes(parameters, pictures, each):
    half = parameters["text encoder"] + parameters["UNet"]
    return 2 * half + 4 * parameters["autoencoder"] + pictures * each


@run_bytes.given
def _():
    real = {"text encoder": 123_060_480, "UNet": 859_520_964, "autoencoder": 83_653_863}
    yield real, 4, 805_371_904
    yield real, 1, 805_371_904
    yield {"text encoder": 340_387_840, "UNet": 865_910_724, "autoencoder": 83_653_863}, 2, 1_812_086_784


@run_bytes.mistake("the autoencoder is in float16 in yours: it stays in float32, with four bytes for each number.")
def _(parameters, pictures, each):
    return 2 * sum(parameters.values()) + pictures * each


@run_bytes.mistake("that is a run in float32: in float16 the text encoder and the UNet have two bytes for each number.")
def _(parameters, pictures, each):
    return 4 * sum(parameters.values()) + pictures * each


@run_bytes.mistake("those are bits: a byte has eight of them, so float16 is two bytes and float32 four.")
def _(parameters, pictures, each):
    return 8 * (run_bytes.answer(parameters, 0, each)) + pictures * each


@run_bytes.mistake(
    "the weights are there once, however many pictures are drawn: only `each` is needed for each picture."
)
def _(parameters, pictures, each):
    return pictures * run_bytes.answer(parameters, 1, each)


@run_bytes.mistake(
    "the number of pictures makes no difference in yours: `each` is needed for every picture of the batch."
)
def _(parameters, pictures, each):
    return run_bytes.answer(parameters, 1, each)


@run_bytes.mistake(
    "the UNet is counted twice: guidance asks it two questions, and it answers both with the same weights."
)
def _(parameters, pictures, each):
    return run_bytes.answer(parameters, pictures, each) + 2 * parameters["UNet"]


@run_bytes.mistake("the weights are missing: what is held for the pictures comes on top of them.")
def _(parameters, pictures, each):
    return pictures * each


# -- 4, 8 or 16 GB -----------------------------------------------------------------------------------------------------


@exercise(
    minutes=5, difficulty=2, trains="deciding what fits on a card", tolerance=1e-9,
    hint="What is left of three quarters of the card after CUDA and the weights, divided by `each`? int() cuts off a "
    "fraction. And max() keeps an answer from falling below 0.",
)  # fmt: skip
def pictures_at_once(card, weights, each):
    return max(0, int((0.75 * card - 0.5 - weights) / each))


@pictures_at_once.given
def _():
    yield 10, 2.142, 0.375  # where every mistake gives another number
    yield 8, 2.142, 0.75
    yield 16, 2.142, 0.75
    yield 4, 2.559, 1.688
    yield 8, 2.559, 1.688


@pictures_at_once.mistake("half a picture does not help: cut off the fraction with int(), and do not round.")
def _(card, weights, each):
    return max(0, round((0.75 * card - 0.5 - weights) / each))


@pictures_at_once.mistake("pictures are whole: cut off the fraction with int().")
def _(card, weights, each):
    return max(0.0, (0.75 * card - 0.5 - weights) / each)


@pictures_at_once.mistake(
    "that is the whole card: leave a quarter of it free, or the first gap between two tensors ends the run."
)
def _(card, weights, each):
    return max(0, int((card - 0.5 - weights) / each))


@pictures_at_once.mistake("the weights are missing: they lie on the card all the time.")
def _(card, weights, each):
    return max(0, int((0.75 * card - 0.5) / each))


@pictures_at_once.mistake(
    "every picture gets weights of its own in yours: they are there once, so subtract them, and divide by `each` alone."
)
def _(card, weights, each):
    return max(0, int((0.75 * card - 0.5) / (weights + each)))


@pictures_at_once.mistake("CUDA's own half a GiB is forgotten.")
def _(card, weights, each):
    return max(0, int((0.75 * card - weights) / each))


@pictures_at_once.mistake("nobody draws fewer than no pictures: where the weights alone are too much, the answer is 0.")
def _(card, weights, each):
    return int((0.75 * card - 0.5 - weights) // each)


# -- v-prediction ------------------------------------------------------------------------------------------------------


@exercise(
    minutes=5, difficulty=2, trains="turning a network that says eps into one that says v",
    hint="First solve x = signal * x0 + noise * eps for x0; signal is the root of alpha_bar. Then v = signal * eps - "
    "noise * x0.",
)  # fmt: skip
def to_v(x, eps, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    x0 = (x - noise * eps) / signal
    return signal * eps - noise * x0


@to_v.given
def _():
    chance = torch.Generator().manual_seed(0)
    for alpha_bar in (0.6, 0.1):
        yield torch.randn(1, 4, 3, 3, generator=chance), torch.randn(1, 4, 3, 3, generator=chance), alpha_bar


@to_v.mistake("the square roots are missing: alpha_bar is a share of the variance, and signal and noise are its roots.")
def _(x, eps, alpha_bar):
    signal, noise = alpha_bar, 1 - alpha_bar
    return signal * eps - noise * (x - noise * eps) / signal


@to_v.mistake("the sign is turned round: v is signal * eps minus noise * x0.")
def _(x, eps, alpha_bar):
    return -to_v.answer(x, eps, alpha_bar)


@to_v.mistake("there is a plus where a minus belongs: v is signal * eps minus noise * x0.")
def _(x, eps, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return signal * eps + noise * (x - noise * eps) / signal


@to_v.mistake("x0 is not brought back to full strength: after the noise is taken away, divide by signal.")
def _(x, eps, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return signal * eps - noise * (x - noise * eps)


@to_v.mistake("x stands where x0 belongs: first take the noise out of x, and divide by signal.")
def _(x, eps, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return signal * eps - noise * x


@to_v.mistake("signal and noise are exchanged: signal is the root of alpha_bar, noise the root of 1 - alpha_bar.")
def _(x, eps, alpha_bar):
    return to_v.answer(x, eps, 1 - alpha_bar)


@to_v.mistake("that is the way back: signal * x - noise * v is x0, where v is known. Here eps is known.")
def _(x, eps, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return signal * x - noise * eps


@to_v.mistake("that is x0; one more line makes v of it: signal * eps - noise * x0.")
def _(x, eps, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return (x - noise * eps) / signal


EPSILON, VELOCITY = "epsilon", "v_prediction"


@exercise(
    minutes=5, difficulty=2, trains="finding out what an unlabelled network says",
    hint="(answer * x).sum() / (x * x).sum() says how much of x is in the answer: 1 if all of it is, 0 if none.",
)  # fmt: skip
def speaks(x, answer):
    share = (answer * x).sum() / (x * x).sum()
    return EPSILON if share > 0.5 else VELOCITY


@speaks.given
def _():
    # Answers as they come at the last timestep: of data whose best answer has a closed form, and with an error on top.
    chance = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 1, 4, 8, 8, generator=chance)
    yield x, 0.995 * x + 0.1 * other
    yield x, -0.07 * x + 0.2 * other
    yield x, 0.03 * x
    yield x, 0.06 * x + 0.9 * other


# There are two answers only, so every mistake must be the first to be wrong on some input.
@speaks.mistake(
    "that compares directions only (a cosine): a small answer along x is no answer of x's size. Divide by x times x."
)
def _(x, answer):
    return EPSILON if torch.cosine_similarity(answer.flatten(), x.flatten(), 0) > 0.5 else VELOCITY


@speaks.mistake("that compares sizes only: v has about the size of x, too. Ask how much of x is in the answer.")
def _(x, answer):
    return EPSILON if answer.std() > 0.5 * x.std() else VELOCITY


@speaks.mistake("everything is eps to yours: compare with a share between 0 and 1, such as a half.")
def _(x, answer):
    return EPSILON if (answer * x).sum() / (x * x).sum() > -1 else VELOCITY


@speaks.mistake(
    "the two names are exchanged: at the last timestep x is nearly all noise, and what gives it back is eps."
)
def _(x, answer):
    return EPSILON if (answer * x).sum() / (x * x).sum() < 0.5 else VELOCITY


class _Translated(nn.Module):
    """A UNet whose answer is turned into another before it is given."""

    def __init__(self, sd: StableDiffusion, turn: Callable):
        super().__init__()
        self.unet, self.config, self.schedule, self.turn = sd.unet, sd.unet.config, sd.schedule, turn

    def forward(self, sample: Tensor, timestep, encoder_hidden_states: Tensor, return_dict: bool = False) -> tuple:
        answer = self.unet(sample, timestep, encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
        x, t = sample[:, : answer.shape[1]].float(), int(timestep)
        eps = self.schedule.to_eps(x, answer.float(), t)
        return (self.turn(x, eps, self.schedule.alpha_bar[t].item()),)


def speaking_v(sd: StableDiffusion, turn: Callable = to_v.answer) -> StableDiffusion:
    """The same model with a network that answers with v, and a schedule that says so.

    turn: (x, eps, alpha_bar) -> v.
    """
    return replace(labelled(sd, VELOCITY), unet=_Translated(sd, turn).eval())


def labelled(sd: StableDiffusion, prediction_type: str) -> StableDiffusion:
    """The same network under another label: what its answers are taken for is said by its schedule alone."""
    return replace(sd, schedule=replace(sd.schedule, prediction_type=prediction_type))


# -- what the notebook shows -------------------------------------------------------------------------------------------


def where(sd: StableDiffusion) -> str:
    """What the lesson runs on, and which of its numbers are therefore not measured, in a few lines."""
    if sd.device.type == "cuda":
        card = torch.cuda.get_device_properties(sd.device)
        first = f"A GPU is here: {card.name}, {card.total_memory / costs.GIB:.1f} GiB."
    else:
        first = "There is no GPU here, and none is needed."
    number_format = str(sd.dtype).removeprefix("torch.")
    return f"{first}\nThe pictures are drawn by {sd.name!r} on {sd.device.type}, in {number_format}."


def measured(sd: StableDiffusion, draw: Callable[[], object]) -> str:
    """What one picture needs by `costs.memory`, and beside it the peak on the GPU while `draw` is called, if there is
    one."""
    said = f"{sd.name}, counted: {sum(costs.memory(sd).of().values()) / costs.GIB:.2f} GiB for a picture"
    if sd.device.type != "cuda":
        return f"{said}; not measured, for there is no GPU here."
    torch.cuda.reset_peak_memory_stats(sd.device)
    draw()
    peak = torch.cuda.max_memory_allocated(sd.device) / costs.GIB
    return f"{said}; measured on {torch.cuda.get_device_name(sd.device)}: {peak:.2f} GiB."


def drawn_anyway(sd: StableDiffusion, prompt: str, seed: int, num_inference_steps: int, guidance_scale: float) -> Image:
    """The picture of a run that may go wrong: as far as it came, without a warning."""
    asked = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "progress": False}
    latents = torch.zeros(1, *sd.latent_shape(), device=sd.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for step in denoise(sd, prompt, seed=seed, **asked):
                latents = step.latents if step.latents.isfinite().all() else latents
        except FloatingPointError:  # in float16 it may leave the range of the format
            pass
    return to_images(autoencoder.decode(sd, latents.clamp(-500, 500)).nan_to_num())[0]


def side_by_side(models: Mapping[str, StableDiffusion]) -> str:
    """A table of what the configs say of some models, a column each; "=" marks a row in which all agree."""
    rows: dict[str, list[str]] = {}
    for sd in models.values():
        for name, value in _facts(sd).items():
            rows.setdefault(name, []).append(value)
    head, wide = list(models), max(map(len, rows))
    columns = [max(len(name), *(len(row[k]) for row in rows.values())) for k, name in enumerate(head)]

    def line(mark: str, name: str, cells) -> str:
        return f"{mark} {name:{wide}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(cells, columns, strict=True))

    return "\n".join([line(" ", "", head), *(line("=" if len({*r}) == 1 else " ", n, r) for n, r in rows.items())])


def _facts(sd: StableDiffusion) -> dict[str, str]:
    text, unet, vae, count = sd.text_encoder.config, sd.unet.config, sd.vae.config, costs.parameters(sd)
    blocks = [type(module).__name__ for module in sd.unet.modules()]
    listening = [module for module in sd.unet.modules() if getattr(module, "attn2", None) is not None]

    def dots(numbers) -> str:
        return " ".join(map(str, numbers))

    return {
        "tokens read": f"{sd.tokenizer.model_max_length} of {text.vocab_size}",
        "text encoder: layers": str(text.num_hidden_layers),
        "text encoder: width": str(text.hidden_size),
        "text encoder: parameters": f"{count['text encoder'] / 1e6:.1f} M",
        "latent channels": str(sd.latent_channels),
        "UNet: channels, level by level": dots(unet.block_out_channels),
        "UNet: residual blocks": str(blocks.count("ResnetBlock2D")),
        "UNet: attentions to the words": str(len(listening)),
        "UNet: parameters": f"{count['UNet'] / 1e6:.1f} M",
        "UNet: answers with": {EPSILON: "eps", VELOCITY: "v"}.get(sd.schedule.prediction_type, "x0"),
        "timesteps": str(sd.schedule.num_train_timesteps),
        "beta, first and last": f"{sd.schedule.beta_start:g} {sd.schedule.beta_end:g}",
        "autoencoder: pixels a latent": f"{sd.vae_factor} x {sd.vae_factor}",
        "autoencoder: channels": dots(vae.block_out_channels),
        "autoencoder: scaling factor": f"{vae.scaling_factor:g}",
        "autoencoder: parameters": f"{count['autoencoder'] / 1e6:.1f} M",
        "latents": " x ".join(map(str, sd.latent_shape())),
        "picture": f"{sd.width} x {sd.height}",
    }


@torch.no_grad()
def loudest(sd: StableDiffusion, image, prompt: str) -> dict[str, list[float]]:
    """The largest magnitude that each layer of each part puts out, in the order in which they run: while the prompt is
    encoded, the UNet looks at the picture half way to noise, and the picture is encoded and decoded."""
    loud: dict[str, list[float]] = {name: [] for name in costs.PARTS}
    hooks = []
    for name, part in costs.PARTS.items():

        def listen(module, inputs, output, name=name):
            tensors = [x for x in (output if isinstance(output, tuple) else (output,)) if torch.is_tensor(x)]
            loud[name].extend(x.abs().max().item() for x in tensors if x.is_floating_point() and x.numel())

        layers = [layer for layer in getattr(sd, part).modules() if not list(layer.children())]
        hooks += [layer.register_forward_hook(listen) for layer in layers]
    try:
        states = encode_prompt(sd, [prompt])
        z = sd.vae.encode(to_tensor(image).to(sd.device, sd.vae.dtype)).latent_dist.mean * sd.scaling_factor
        t = sd.schedule.num_train_timesteps // 2
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
        extra = z.new_zeros(1, sd.unet.config.in_channels - z.shape[1], *z.shape[2:])
        x = torch.cat([sd.schedule.add_noise(z, noise, t), extra], dim=1).to(sd.dtype)
        sd.unet(x, t, encoder_hidden_states=states.to(sd.dtype))
        sd.vae.decode(z / sd.scaling_factor)
    finally:
        for hook in hooks:
            hook.remove()
    return loud
