"""The last figure of the course: a reader's own picture, how it was drawn, and which checks the code has passed.

    certificate("my_picture.png", {"draw": True, "redraw": False})     # as the last line of a cell it shows itself

The picture in it is the file itself, byte by byte, so whoever saves it keeps the settings, too.
"""

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path

from ..pictures import read_settings
from .predict import Shown

_STYLE = Path(__file__).with_suffix(".css")


def certificate(path: str | Path, checks: Mapping[str, bool]) -> Shown:
    """A PNG by `save_image` with its settings, and what was checked: name -> whether it was passed.

    Raises ValueError for a picture without settings.
    """
    path, settings = Path(path), read_settings(path)
    content = base64.b64encode(path.read_bytes()).decode()
    passed = f"{sum(checks.values())} of {len(checks)} checks passed"
    how = (
        f"seed {settings['seed']}, {settings['num_inference_steps']} steps, guidance {settings['guidance_scale']:g}, "
        f"{settings['sampler']}; model {settings['model']}, {settings['width']} × {settings['height']} pixels"
    )
    prompt = settings["prompt"] or "no words"
    lines = "".join(f"<li>{'✓' if right else '✎'} <code>{escape(name)}</code></li>" for name, right in checks.items())
    file = f"data:image/png;base64,{content}"
    html = (
        f'<div class="sdlearn-certificate tex2jax_ignore mathjax_ignore" role="group" aria-label="Your picture">'
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style>"
        f'<img class="dark-light" src="{file}" alt="{escape(prompt)}"><div class="words">'
        f'<p class="kind">The whole machine from memory</p><p class="title">“{escape(prompt)}”</p>'
        f'<p class="small">{escape(how)}</p><p>{passed}</p><ul>{lines}</ul>'
        f'<a href="{file}" download="{escape(path.name)}">Keep the picture</a></div></div>'
    )
    return Shown(f"“{prompt}”: {how}. {passed}.", html)
