"""The playground, the page on which the course's model draws in the reader's own browser.

`sdlearn book` lays beside the pages what it needs: the model as `browser` writes it, and onnxruntime-web, which is
fetched with npm at a pinned version and never committed. Its own code is notebooks/_static/playground.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import warnings
from pathlib import Path

from .. import autoencoder, pictures, sampling
from ..hub import checkpoints
from ..model import StableDiffusion
from ..show.scrubber import scrub
from ..training.artwork import Package, fetch
from . import browser

RUNTIME = Package(
    "onnxruntime-web", "1.30.0", "ONNX Runtime, Microsoft Corporation, MIT",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)  # fmt: skip
CACHE = Path("~/.cache/sdlearn/site").expanduser()
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"  # the CPU's; WebGPU's is twice as large

# The service worker, which governs no page above the folder that it comes from.
SERVICE = Path(__file__).parents[2] / "notebooks" / "_static" / "playground" / "service.mjs"

PLACE = "<!-- The playground stands here in the built book. -->"  # in playground.md
PROMPTS = (
    "a glossy fox on a teal background",
    "a flat owl on an orange background",
    "an ink cat on a yellow background",
    "a glossy rocket on a purple background",
    "a flat penguin on a pink background",
)
DEFAULTS = {"prompt": PROMPTS[0], "seed": 7, "num_inference_steps": 15, "guidance_scale": 4, "sampler": "dpm++2m"}
STRENGTH = 0.7

# Without scripts what is inside shows; with them it waits for the playground, though not for ever.
_FRAME = """`````{{raw}} html
<sd-playground model="playground/model.json">
<style>
sd-playground {{ display: block; }}
sd-playground.waits {{ min-height: 44rem; }}
sd-playground.waits > * {{ display: none; }}
</style>
<p class="off">To draw here takes JavaScript, which is off. Below is a run that was drawn before.</p>
<script>
(({{parentElement: here}}) => {{
  here.querySelector(".off").remove();
  here.classList.add("waits");
  setTimeout(() => {{
    if (!window.customElements || !customElements.get("sd-playground")) here.classList.remove("waits");
  }}, 8000);
}})(document.currentScript);
</script>
{instead}
</sd-playground>
<script type="module" src="_static/playground/page.mjs"></script>
`````"""
_WITHOUT = """{sentence} Below is a run that was drawn before.

`````{{raw}} html
{instead}
`````"""


def stand(source: Path, cache: Path, sd: StableDiffusion | None = None) -> str:
    """What takes PLACE's place in the page; all that it needs is laid into source/extra, which the site copies.

    cache: a folder that keeps what was exported before. sd: the shipped model by default. Where the runtime or the
    exporter cannot be had, the page shows a run that is drawn now, and a warning says why.
    """
    sd = sd or checkpoints.load(checkpoints.DEFAULT, device="cpu", dtype="float32")
    instead = canned(sd)
    try:
        script, runtime = unpack(fetch(RUNTIME, CACHE))
        exported = prepared(sd, cache)
    except OSError as error:
        warnings.warn(f"The site's playground shows a finished run instead of drawing: {error}", stacklevel=2)
        sentence = "This copy of the site was built without what it takes to draw in a browser."
        return _WITHOUT.format(sentence=sentence, instead=instead)
    folder = source / "extra" / "playground"
    shutil.copytree(exported, folder, dirs_exist_ok=True)
    manifest = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    manifest["files"]["runtime"] = browser.store(folder, BINARY, runtime)
    name = f"{RUNTIME.name}-{RUNTIME.version}.mjs"
    (folder / name).write_bytes(script)
    manifest["files"]["script"] = {"path": name, "bytes": len(script)}
    manifest |= {"prompts": PROMPTS, "defaults": {"negative_prompt": "", "strength": STRENGTH, **DEFAULTS}}
    (folder / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    shutil.copy(SERVICE, source / "extra" / "playground-service.mjs")
    return _FRAME.format(instead=instead)


def unpack(archive: Path) -> tuple[bytes, bytes]:
    """The runtime's script and its binary."""
    with tarfile.open(archive) as package:
        return tuple(package.extractfile(f"package/dist/{name}").read() for name in (SCRIPT, BINARY))


def prepared(sd: StableDiffusion, cache: Path) -> Path:
    """The folder that `export` makes of a model, made anew when the model or the code has changed."""
    package = Path(__file__).parents[1]
    code = [package / f"{name}.py" for name in ("tools/browser", "attention", "samplers", "schedule", "text")]
    files = sorted(file for file in sd.path.rglob("*") if file.suffix in (".json", ".safetensors", ".txt"))
    key = hashlib.sha256()
    for file in (*code, *files):
        key.update(file.read_bytes())
    folder = cache / key.hexdigest()[:16]
    if not folder.is_dir():
        partial = folder.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        browser.export(sd, partial)
        partial.rename(folder)
    return folder


def canned(sd: StableDiffusion) -> str:
    """The HTML of a run to drag through, for readers whose browser does not draw."""
    run = {name: value for name, value in DEFAULTS.items() if name != "prompt"}
    steps = list(sampling.denoise(sd, DEFAULTS["prompt"], **run, progress=False))
    frames = [pictures.to_images(autoencoder.decode(sd, step.x0))[0] for step in steps]
    labels = [f"step {step.index + 1} of {len(steps)}" for step in steps]
    alt = f"What the network believes, step by step, for “{DEFAULTS['prompt']}”"
    return scrub(frames, labels, caption=alt, alt=alt, start=len(frames) // 2).html
