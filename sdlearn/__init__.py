"""sdlearn: learn Stable Diffusion by running it, anywhere.

    import sdlearn
    sd = sdlearn.load()                                    # the course's own small trained model, no download
    sdlearn.text_to_image(sd, "a glossy red apple", seed=7)

The rooms, along the way a picture takes; each imports only those before it:

    schedule     how much noise at which timestep
    samplers     from one noise level to the next
    guidance     what the prompt adds to the prediction
    model        the parts of one Stable Diffusion model
    pictures     files, PIL images, tensors in [-1, 1]
    text         from a prompt to what the UNet reads
    autoencoder  pictures to latents and back
    batch        what is asked of a run, checked once; seeds
    sampling     the loop, and the three ways to start it
    attention    which word draws which part: recorded, swapped
    fast         the same loop with less to do in every step

Upstairs, where the ground floor never looks: `hub` (checkpoints by name, fetched and read), `show` (figures, scrubber,
widgets), `exercises` (what the notebooks ask for and claim, and the checks), `tools` (the command line) and `training`
(how the shipped model was made).
"""

from importlib import import_module
from typing import TYPE_CHECKING

# ruff: noqa: F401 - what follows is for editors; at run time nothing is imported before it is used
if TYPE_CHECKING:
    from . import attention, autoencoder, batch, fast, guidance, model, pictures, samplers, sampling, schedule, text
    from .batch import Settings
    from .exercises.lesson import lesson
    from .fast import optimize
    from .hub import architectures, checkpoints
    from .hub.checkpoints import load, model_path, models, quiet
    from .model import StableDiffusion
    from .pictures import read_settings, save_image
    from .samplers import SAMPLERS
    from .sampling import Step, denoise, image_to_image, inpaint, text_to_image
    from .schedule import NoiseSchedule
    from .show import figures, scrubber, widgets
    from .show.predict import predict
    from .show.scrubber import compare, scrub, scrub_plane
    from .tools import bench

__version__ = "0.1.0"

# Where each public name and each room lives. Nothing is imported before it is used: torch and diffusers take seconds.
_NAMES = {
    "batch": ["Settings"],
    "exercises.lesson": ["lesson"],
    "fast": ["optimize"],
    "hub.checkpoints": ["load", "model_path", "models", "quiet"],
    "model": ["StableDiffusion"],
    "pictures": ["read_settings", "save_image"],
    "samplers": ["SAMPLERS"],
    "sampling": ["Step", "denoise", "image_to_image", "inpaint", "text_to_image"],
    "schedule": ["NoiseSchedule"],
    "show.predict": ["predict"],
    "show.scrubber": ["compare", "scrub", "scrub_plane"],
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_UPSTAIRS = ["hub.architectures", "show.figures", "show.widgets", "tools.bench"]
_FLOOR = ["attention", "autoencoder", "guidance", "text"]
_ROOMS = {module.split(".")[-1]: module for module in (*_FLOOR, *_NAMES, *_UPSTAIRS)}
_ROOMS = {name: module for name, module in _ROOMS.items() if name not in _HOME}  # predict is the function

__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name in _ROOMS:
        return import_module(f".{_ROOMS[name]}", __name__)
    raise AttributeError(f"module 'sdlearn' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_HOME, *_ROOMS})
