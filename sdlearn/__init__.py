"""sdlearn: learn Stable Diffusion by running it, anywhere.

    import sdlearn
    sd = sdlearn.load()                                    # the course's own small trained model, no download
    sdlearn.text_to_image(sd, "a glossy red apple", seed=7)

The rooms, along the way a picture takes: checkpoints, text, schedule, samplers, guidance, sampling, autoencoder; and
what the lessons show: figures, scrubber.
"""

from importlib import import_module

__version__ = "0.1.0"

# Where each public name lives. Nothing is imported before it is used: torch and diffusers take seconds.
_HOME = {
    "load": "checkpoints",
    "model_path": "checkpoints",
    "models": "checkpoints",
    "quiet": "checkpoints",
    "StableDiffusion": "checkpoints",
    "NoiseSchedule": "schedule",
    "SAMPLERS": "samplers",
    "denoise": "sampling",
    "Step": "sampling",
    "text_to_image": "sampling",
    "image_to_image": "sampling",
    "inpaint": "sampling",
    "save_image": "autoencoder",
    "read_settings": "autoencoder",
    "optimize": "fast",
    "scrub": "scrubber",
    "compare": "scrubber",
}
_ROOMS = (
    "architectures",
    "autoencoder",
    "batch",
    "bench",
    "checkpoints",
    "fast",
    "figures",
    "guidance",
    "samplers",
    "sampling",
    "schedule",
    "scrubber",
    "text",
    "widgets",
)

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'sdlearn' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_HOME, *_ROOMS})
