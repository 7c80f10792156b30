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
    fast         the same loop with less to do in every step

Upstairs, where the ground floor never looks: `hub` (checkpoints by name, fetched and read), `show` (figures, scrubber,
widgets), `tools` (the command line) and `training` (how the shipped model was made).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors; at run time nothing is imported before it is used
    from . import autoencoder as autoencoder
    from . import batch as batch
    from . import fast as fast
    from . import guidance as guidance
    from . import model as model
    from . import pictures as pictures
    from . import samplers as samplers
    from . import sampling as sampling
    from . import schedule as schedule
    from . import text as text
    from .batch import Settings
    from .fast import optimize
    from .hub import architectures as architectures
    from .hub import checkpoints as checkpoints
    from .hub.checkpoints import load, model_path, models, quiet
    from .model import StableDiffusion
    from .pictures import read_settings, save_image
    from .samplers import SAMPLERS
    from .sampling import Step, denoise, image_to_image, inpaint, text_to_image
    from .schedule import NoiseSchedule
    from .show import figures as figures
    from .show import scrubber as scrubber
    from .show import widgets as widgets
    from .show.scrubber import compare, scrub
    from .tools import bench as bench

__version__ = "0.1.0"
__all__ = [
    "SAMPLERS",
    "NoiseSchedule",
    "Settings",
    "StableDiffusion",
    "Step",
    "__version__",
    "compare",
    "denoise",
    "image_to_image",
    "inpaint",
    "load",
    "model_path",
    "models",
    "optimize",
    "quiet",
    "read_settings",
    "save_image",
    "scrub",
    "text_to_image",
]

# Where each public name lives. Nothing is imported before it is used: torch and diffusers take seconds.
_HOME = {
    "load": "hub.checkpoints",
    "model_path": "hub.checkpoints",
    "models": "hub.checkpoints",
    "quiet": "hub.checkpoints",
    "StableDiffusion": "model",
    "NoiseSchedule": "schedule",
    "Settings": "batch",
    "SAMPLERS": "samplers",
    "denoise": "sampling",
    "Step": "sampling",
    "text_to_image": "sampling",
    "image_to_image": "sampling",
    "inpaint": "sampling",
    "save_image": "pictures",
    "read_settings": "pictures",
    "optimize": "fast",
    "scrub": "show.scrubber",
    "compare": "show.scrubber",
}
_ROOMS = {
    "architectures": "hub.architectures",
    "autoencoder": "autoencoder",
    "batch": "batch",
    "bench": "tools.bench",
    "checkpoints": "hub.checkpoints",
    "fast": "fast",
    "figures": "show.figures",
    "guidance": "guidance",
    "model": "model",
    "pictures": "pictures",
    "samplers": "samplers",
    "sampling": "sampling",
    "schedule": "schedule",
    "scrubber": "show.scrubber",
    "text": "text",
    "widgets": "show.widgets",
}


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name in _ROOMS:
        return import_module(f".{_ROOMS[name]}", __name__)
    raise AttributeError(f"module 'sdlearn' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_HOME, *_ROOMS})
