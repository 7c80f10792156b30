"""Checkpoints as files: which ones are needed, and how they are read without running anything.

A repository on the hub holds the same weights several times over: full and half precision, safetensors and pickles,
other frameworks, without the moving average. One set of them is chosen by name and nothing else is fetched.
"""

import json
import math
from collections.abc import Iterable
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from packaging.version import Version
from safetensors import safe_open

NETWORKS = ("text_encoder", "unet", "vae")
PARTS = ("tokenizer", *NETWORKS, "scheduler")


def choose_weights(names: Iterable[str], half: bool) -> str | None:
    """The file to read among those of one network's folder, or None where there is none.

    safetensors before pickles, then the precision that was asked for before the other one; never one in pieces.
    """
    names = set(names)
    for ending in ("safetensors", "bin"):
        for mark in (".fp16", "") if half else ("", ".fp16"):
            for stem in ("diffusion_pytorch_model", "pytorch_model", "model"):
                if (file := f"{stem}{mark}.{ending}") in names:
                    return file
    return None


def choose_files(names: Iterable[str], half: bool) -> list[str]:
    """Which files of a whole checkpoint are needed; raises ValueError that says what is missing from it."""
    names = set(names)
    inside = {part: {n.removeprefix(f"{part}/") for n in names if n.startswith(f"{part}/")} for part in PARTS}
    absent = [part for part in PARTS if not inside[part]]
    if absent:
        raise ValueError(f"it has no folder {' or '.join(absent)}")
    chosen = [f"tokenizer/{name}" for name in sorted(inside["tokenizer"]) if "/" not in name]
    needed = ["scheduler/scheduler_config.json"]
    for network in NETWORKS:
        file = choose_weights(inside[network], half)
        if file is None:
            raise ValueError(f"its folder {network} holds no complete weights in one file, .safetensors or .bin")
        needed.append(f"{network}/config.json")
        chosen.append(f"{network}/{file}")
    if "tokenizer.json" not in inside["tokenizer"]:
        needed += ["tokenizer/vocab.json", "tokenizer/merges.txt"]
    lost = [name for name in needed if name not in names]
    if lost:
        raise ValueError(f"it has no {' and no '.join(lost)}")
    return list(dict.fromkeys([*chosen, *needed, *(["model_index.json"] if "model_index.json" in names else [])]))


def files_of(folder: Path) -> list[str]:
    """The files of a folder and its parts, as the hub would list them; broken links of a damaged cache left out."""
    found = [*folder.glob("*"), *(file for part in PARTS for file in (folder / part).glob("*"))]
    return [file.relative_to(folder).as_posix() for file in found if file.is_file()]


def check(folder: Path) -> None:
    """Raises ValueError for a folder that is not a whole Stable Diffusion 1 or 2 model in the diffusers layout.

    Other pipelines have folders of the same names; drawing with them would fail far from here, or worse, succeed.
    """
    try:
        choose_files(files_of(folder), half=False)
    except ValueError as error:
        raise ValueError(f"{folder} is not a model in the diffusers layout: {error}.") from None
    for part, key, expected in (
        ("unet", "_class_name", "UNet2DConditionModel"),
        ("unet", "addition_embed_type", None),
        ("unet", "encoder_hid_dim_type", None),
        ("vae", "_class_name", "AutoencoderKL"),
        ("text_encoder", "model_type", "clip_text_model"),
    ):
        value = read_json(folder / part / "config.json").get(key, expected)
        if value != expected:
            message = f"{part}/config.json has {key} {value!r}, not {expected!r}"
            raise ValueError(f"{folder} is no Stable Diffusion 1 or 2 model: {message}.")


def read_network(cls: type, folder: Path, dtype: torch.dtype, half: bool) -> torch.nn.Module:
    """cls.from_pretrained(folder) on the CPU, with its terse failures explained in full.

    half: read the half-precision files where there are both. Raises OSError that names the file and the cure for
    weights that are damaged, incomplete or hold anything but tensors; nothing in them is ever run.
    """
    file = folder / choose_weights((file.name for file in folder.iterdir()), half)
    with file.open("rb") as opened:
        if opened.read(8) == b"version ":
            raise OSError(f"{file} is a git-lfs pointer, not the weights; run `git lfs pull` where it was cloned.")
    pickled = file.suffix == ".bin"
    if not pickled:
        with damage_told(file), safe_open(file, framework="pt"):
            pass
    # Without safetensors both libraries use torch's weights_only reader, which makes tensors and calls nothing.
    # Before torch 2.6 a crafted file could get around it (CVE-2025-32434).
    elif Version(torch.__version__) < Version("2.6"):
        raise OSError(
            f"{folder} has its weights only as pickles (.bin), which are safe to read from torch 2.6 on; "
            f"this is torch {torch.__version__}."
        )
    # from_pretrained's argument was renamed from torch_dtype to dtype.
    library = cls.__module__.split(".")[0]
    renamed = Version(version(library)) >= Version({"transformers": "4.56", "diffusers": "0.42"}[library])
    options = {"use_safetensors": not pickled, "dtype" if renamed else "torch_dtype": dtype}
    options["variant"] = "fp16" if ".fp16." in file.name else None
    with _quiet_loading(), damage_told(folder, pickled):
        module, report = cls.from_pretrained(folder, output_loading_info=True, **options)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise OSError(
            f"The weights in {folder} do not fill the network that its config.json describes: {len(missing)} tensors "
            f"are missing, {missing[0]} among them; fetch or save the checkpoint again."
        )
    return module


def read_json(path: Path) -> dict:
    """A JSON file; damage is an OSError that names it."""
    with damage_told(path):
        return json.loads(path.read_text(encoding="utf-8"))


def measure(folder: Path) -> tuple[int, int]:
    """How many parameters a model's three networks have and its picture's side in pixels, from the files' headers."""
    parameters = 0
    for part in (folder / network for network in NETWORKS):
        name = choose_weights((file.name for file in part.iterdir()), half=True)
        with safe_open(part / name, framework="np") as file:
            parameters += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    blocks = read_json(folder / "vae" / "config.json")["block_out_channels"]
    return parameters, read_json(folder / "unet" / "config.json")["sample_size"] * 2 ** (len(blocks) - 1)


def first_line(error: Exception) -> str:
    """What an error says first, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def damage_told(path: Path, pickled: bool = False):
    """Turns what the readers raise for damaged files into one OSError that names the file and the cure."""
    try:
        yield
    except Exception as error:  # each reader fails in its own way, the tokenizer's with a bare Exception
        if isinstance(error, MemoryError) or "allocate" in str(error):  # the file is sound
            cure = "close other programs, or load a smaller model or dtype='bfloat16'."
            raise MemoryError(f"{path} does not fit into memory; {cure}") from error
        what = "is damaged, or holds more than tensors" if pickled else "is damaged"
        message = first_line(error).rstrip(".")[:200]
        # In the hub's cache this is a link. Deleted alone it would come back to the same damaged file.
        repository = next((folder.parent for folder in path.parents if folder.name == "snapshots"), None)
        raise OSError(
            f"{path} {what}: {message}. Delete {repository or 'it'} and fetch the checkpoint again; "
            f"the shipped model, sdlearn.load('emoji'), needs no download."
        ) from error


@contextmanager
def _quiet_loading():
    """No progress bar for reading weights that are already on the disk; the user's setting comes back afterwards."""
    import huggingface_hub
    from transformers.utils import logging

    before, downloads = logging.is_progress_bar_enabled(), huggingface_hub.utils.are_progress_bars_disabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()
        if not downloads:  # transformers switches the bars of downloads off as well
            huggingface_hub.utils.enable_progress_bars()
