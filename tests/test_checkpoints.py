"""Checkpoints: which files are fetched and read, what damaged or absent ones say, and where the parts end up."""

import errno
import json
import os
import pickle
import re
import shutil
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import accelerate
import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import constants, file_download
from random_models import save_random_model
from safetensors.torch import load_file, save_file

import sdlearn
from sdlearn.hub import checkpoints, weights
from sdlearn.hub.architectures import random_model

REVISION = "0123456789abcdef0123456789abcdef01234567"
WEIGHT_FILES = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
PICKLE_FILES = {part: name.replace(".safetensors", ".bin") for part, name in WEIGHT_FILES.items()}
PICKLE_FILES["text_encoder"] = "pytorch_model.bin"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original, tmp_path / "tiny"))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty hub cache, and no network unless the test brings a hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    point_at(monkeypatch, "http://127.0.0.1:9")
    return tmp_path / "cache"


def point_at(monkeypatch, endpoint: str):
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)  # before hub 0.30


def put_in_cache(source: Path, cache: Path, repo_id: str) -> Path:
    """Lay a checkpoint out as the hub's client does."""
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    return Path(shutil.copytree(source, repository / "snapshots" / REVISION))


def as_pickles(folder: Path):
    for part, name in WEIGHT_FILES.items():
        torch.save(load_file(folder / part / name), folder / part / PICKLE_FILES[part])
        (folder / part / name).unlink()


def states(model: sdlearn.StableDiffusion) -> dict[str, torch.Tensor]:
    parts = {"text_encoder": model.text_encoder, "unet": model.unet, "vae": model.vae}
    return {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}


def assert_same_weights(a: sdlearn.StableDiffusion, b: sdlearn.StableDiffusion):
    ours, theirs = states(a), states(b)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0, msg=key)


# -- names ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_known_by_its_own_name(original, monkeypatch):
    assert sdlearn.load(original, "cpu").name == "tiny"
    assert sdlearn.load(f"{original}/", "cpu").name == "tiny"
    assert sdlearn.load(sdlearn.model_path(), "cpu").name == "emoji"
    monkeypatch.setenv("SDLEARN_MODEL", str(original))
    assert sdlearn.load(device="cpu").name == "tiny"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"emoji, sd-1\.4, .*dreamlike"):
        sdlearn.load("stable-difusion")


@pytest.mark.parametrize("name", ["some one/tiny", "./tiny", "~/tiny", "a/b/c", "/no/where", ".."])
def test_what_is_neither_a_folder_nor_an_id_asks_no_hub(name, cache):
    with pytest.raises(ValueError, match=r"no model|not a model"):
        sdlearn.load(name, "cpu")


def test_a_single_file_says_how_to_convert_it(tmp_path):
    with pytest.raises(ValueError, match="from_single_file"):
        sdlearn.load(tmp_path / "v1-5-pruned.safetensors")


def test_unknown_devices_and_dtypes_say_what_there_is():
    with pytest.raises(ValueError, match="'warp'"):
        sdlearn.load(device="warp")
    with pytest.raises(ValueError, match="float32, float16, bfloat16"):
        sdlearn.load(device="cpu", dtype="float8")


def test_the_catalogue_names_sizes_licences_and_what_is_here(original, cache):
    put_in_cache(original, cache, "CompVis/stable-diffusion-v1-4")
    models = {model.name: model for model in sdlearn.models()}
    assert list(models) == ["emoji", "sd-1.4", "sd-1.5", "sd-2.1", "sd-2.1-base", "dreamlike-photoreal-2.0"]
    assert [name for name, model in models.items() if model.cached] == ["emoji", "sd-1.4"]
    emoji = sdlearn.load("emoji", "cpu")
    assert models["emoji"].parameters == sum(value.numel() for value in states(emoji).values())
    assert models["emoji"].pixels == emoji.width
    table = str(sdlearn.models()).splitlines()
    assert len(table) == 1 + len(models)
    for model, row in zip(models.values(), table[1:], strict=True):
        assert row.startswith(model.name) and row.endswith(model.licence)


@pytest.mark.parametrize("name", ["sd-1.4", "sd-1.5", "sd-2.1-base", "sd-2.1"])
def test_the_published_configs_build_networks_of_the_published_size(name):
    sd = random_model(name, device="meta", dtype="float16")
    count = {part: sum(p.numel() for p in getattr(sd, part).parameters()) for part in ("text_encoder", "unet", "vae")}
    version_1 = name.startswith("sd-1")
    assert count["unet"] == (859_520_964 if version_1 else 865_910_724)
    assert count["text_encoder"] == (123_060_480 if version_1 else 340_387_840)
    assert sum(count.values()) == checkpoints.CHECKPOINTS[name].parameters
    assert sd.width == sd.height == checkpoints.CHECKPOINTS[name].pixels
    assert sd.scaling_factor == 0.18215


PAGE = (Path(__file__).parents[1] / "notebooks" / "checkpoints.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("checkpoint", checkpoints.CHECKPOINTS.values(), ids=lambda checkpoint: checkpoint.name)
def test_the_page_on_checkpoints_states_size_and_licence(checkpoint):
    (row,) = [line for line in PAGE.splitlines() if line.startswith("|") and f"`{checkpoint.name}`" in line]
    assert row.endswith(f"| {checkpoint.pixels} | {checkpoint.gigabytes:.1f} GB | {checkpoint.licence} |")


def test_the_page_on_checkpoints_states_the_memory_of_the_weights():
    """The autoencoder's in float32, as they are beside a UNet in float16."""
    held = [states(random_model(name, device="meta", dtype="float16")) for name in ("sd-1.4", "sd-2.1")]
    sizes = [sum(value.nbytes for value in weights.values()) / 2**30 for weights in held]
    assert "| Weights | {:.1f} GiB | {:.1f} GiB |".format(*sizes) in PAGE


@pytest.fixture
def small_architecture(monkeypatch):
    from sdlearn.hub import architectures

    small = {**architectures.ARCHITECTURES["sd-1.4"]}
    small["unet"] = small["unet"] | {"block_out_channels": (32, 32, 32, 32), "sample_size": 8}
    small["vae"] = small["vae"] | {"block_out_channels": (32, 32, 32, 32)}
    small["text_encoder"] = small["text_encoder"] | {"num_hidden_layers": 1}
    monkeypatch.setitem(architectures.ARCHITECTURES, "sd-1.4", small)


def test_random_weights_draw_a_finite_picture_of_a_real_models_shape(small_architecture):
    sd = random_model("sd-1.4", "cpu")
    picture = sdlearn.text_to_image(sd, "a cat", seed=1, num_inference_steps=2)
    assert picture.size == (64, 64)
    with pytest.raises(ValueError, match=r"sd-1\.4, sd-1\.5"):
        random_model("sd-9", "cpu")


def test_random_weights_spare_memory_as_loaded_ones_do(small_architecture, monkeypatch):
    low = random_model("sd-1.4", "cpu", low_memory=True)
    assert low.vae.use_slicing and low.vae.use_tiling
    assert sdlearn.text_to_image(low, "a cat", seed=1, num_inference_steps=1).size == (64, 64)
    offloaded = []
    monkeypatch.setattr(accelerate, "cpu_offload", lambda unet, place: offloaded.append((unet.device.type, place.type)))
    random_model("sd-1.4", "meta", low_memory=True)
    assert offloaded == [("cpu", "meta")]


# -- which files ---------------------------------------------------------------------------------------------------

FULL, HALF = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"
OLD_FULL, OLD_HALF = "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin"


@pytest.mark.parametrize(
    ("names", "half", "chosen"),
    [
        ([FULL, HALF, OLD_FULL, OLD_HALF], True, HALF),
        ([FULL, HALF, OLD_FULL, OLD_HALF], False, FULL),
        ([FULL, OLD_HALF], True, FULL),  # safetensors first, whatever the precision
        ([HALF, OLD_FULL], False, HALF),
        ([OLD_FULL, OLD_HALF], True, OLD_HALF),
        (["model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5"], True, "model.safetensors"),
        (["diffusion_pytorch_model.non_ema.safetensors", FULL], True, FULL),
    ],
)
def test_one_set_of_weights_is_chosen(names, half, chosen):
    assert weights.choose_weights(names, half) == chosen


def test_half_precision_reads_the_half_precision_files(folder):
    for part, name in WEIGHT_FILES.items():
        weights = load_file(folder / part / name)
        marked = {key: torch.zeros_like(value).half() for key, value in weights.items()}
        save_file(marked, folder / part / name.replace(".safetensors", ".fp16.safetensors"), {"format": "pt"})
    assert all((value == 0).all() for value in states(sdlearn.load(folder, "cpu", "float16")).values())
    full = sdlearn.load(folder, "cpu", "float32")
    assert any((value != 0).any() for value in states(full).values())


# -- older checkpoints ---------------------------------------------------------------------------------------------


def test_old_names_of_weights_load(original, folder):
    """Stable Diffusion 1.4's own files: the text encoder under text_model., position_ids, the VAE's first attention."""
    text = load_file(original / "text_encoder" / "model.safetensors")
    old = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in text.items()}
    old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(old, folder / "text_encoder" / "model.safetensors", {"format": "pt"})
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = load_file(original / "vae" / WEIGHT_FILES["vae"])
    old_vae = {}
    for key, value in vae.items():
        for new, before in renamed.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        old_vae[key] = value
    assert any(".query." in key for key in old_vae)
    save_file(old_vae, folder / "vae" / WEIGHT_FILES["vae"], {"format": "pt"})
    assert_same_weights(sdlearn.load(folder, "cpu"), sdlearn.load(original, "cpu"))


def test_pickled_weights_load_as_tensors(original, folder):
    as_pickles(folder)
    assert_same_weights(sdlearn.load(folder, "cpu"), sdlearn.load(original, "cpu"))


def test_weights_in_several_files_are_refused_in_one_sentence(folder):
    as_pickles(folder)
    pickled = folder / "unet" / PICKLE_FILES["unet"]
    for k in (1, 2):
        shutil.copy(pickled, folder / "unet" / f"diffusion_pytorch_model-0000{k}-of-00002.bin")
    pickled.with_name(f"{pickled.name}.index.json").write_text("{}")
    pickled.unlink()
    with pytest.raises(ValueError, match=r"unet.*no complete weights"):
        sdlearn.load(folder, "cpu")


class Malicious:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


@pytest.mark.parametrize("part", WEIGHT_FILES)
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_never_runs(folder, tmp_path, part, zipped):
    as_pickles(folder)
    trace = tmp_path / "it-ran"
    weights = torch.load(folder / part / PICKLE_FILES[part], weights_only=True)
    weights["harmless.weight"] = Malicious(trace)
    torch.save(weights, folder / part / PICKLE_FILES[part], _use_new_zipfile_serialization=zipped)
    with pytest.raises(OSError, match=r"more than tensors"):
        sdlearn.load(folder, "cpu")
    assert not trace.exists()
    with pytest.raises(FileNotFoundError):  # the trap is armed: an ordinary unpickling would have sprung it
        pickle.loads(pickle.dumps(Malicious(tmp_path / "no" / "such" / "parent")))


def test_pickles_are_refused_where_torchs_safe_reader_was_not_yet_safe(folder, monkeypatch):
    as_pickles(folder)
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(OSError, match=r"torch 2\.6"):
        sdlearn.load(folder, "cpu")


# -- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", WEIGHT_FILES)
@pytest.mark.parametrize("cut", [0, 6, 1000, -10])
def test_a_truncated_file_is_named(folder, part, cut):
    file = folder / part / WEIGHT_FILES[part]
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(OSError, match=rf"{part}/{WEIGHT_FILES[part]}.*damaged.*emoji"):
        sdlearn.load(folder, "cpu")


def test_damaged_pickles_are_named(folder):
    as_pickles(folder)
    file = folder / "unet" / PICKLE_FILES["unet"]
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(OSError, match=r"unet.*damaged"):
        sdlearn.load(folder, "cpu")


@pytest.mark.parametrize("name", ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
def test_damaged_json_is_named(folder, name):
    (folder / name).write_text('{"sample_size": 8,')
    with pytest.raises(OSError, match=f"{name}.*damaged"):
        sdlearn.load(folder, "cpu")


def test_a_damaged_tokenizer_is_named(folder):
    for file in (folder / "tokenizer").glob("*.json"):
        file.write_text("{")
    with pytest.raises(OSError, match=r"tokenizer.*damaged"):
        sdlearn.load(folder, "cpu")


@pytest.fixture
def plain_tokenizer(folder) -> Path:
    """The folder of a tokenizer in the two files of old, which the library reads with an error of its own."""
    shutil.rmtree(folder / "tokenizer")
    return Path(shutil.copytree(sdlearn.model_path() / "tokenizer", folder / "tokenizer"))


@pytest.mark.parametrize("content", ['{"a": 1', "{}", "[1]", "\xff\n\n"])
@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_damaged_vocabularies_are_named_with_the_cure(folder, plain_tokenizer, file, content):
    (plain_tokenizer / file).write_text(content, encoding="latin-1")
    with pytest.raises(OSError, match=r"tokenizer is damaged: .*Delete .* and fetch the checkpoint again"):
        sdlearn.load(folder, "cpu")


@pytest.mark.parametrize("config", [None, {}, {"model_max_length": 10**30}])
def test_a_tokenizer_that_states_no_length_has_the_text_encoders(folder, plain_tokenizer, config):
    (plain_tokenizer / "tokenizer_config.json").unlink()
    if config is not None:
        (plain_tokenizer / "tokenizer_config.json").write_text(json.dumps(config))
    sd = sdlearn.load(folder, "cpu")
    assert sd.tokenizer.model_max_length == 77
    assert sdlearn.text.encode_prompt(sd, "a fox").shape[1] == 77


def test_too_little_memory_is_not_called_damage(folder, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", full)
    with pytest.raises(MemoryError, match="unet does not fit into memory; close other programs"):
        sdlearn.load(folder, "cpu")


def test_a_git_lfs_pointer_says_so(folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "vae" / WEIGHT_FILES["vae"]).write_text(pointer)
    with pytest.raises(OSError, match="git lfs pull"):
        sdlearn.load(folder, "cpu")


@pytest.mark.parametrize("part", WEIGHT_FILES)
def test_missing_tensors_are_an_error_and_never_random(folder, part):
    file = folder / part / WEIGHT_FILES[part]
    weights = load_file(file)
    del weights[sorted(weights)[0]]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(OSError, match="missing"):
        sdlearn.load(folder, "cpu")


def test_weights_of_another_width_are_an_error(folder):
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 64}))
    with pytest.raises(OSError, match=r"unet.*damaged"):
        sdlearn.load(folder, "cpu")


@pytest.mark.parametrize("part", weights.PARTS)
def test_a_missing_part_is_named(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(ValueError, match=f"diffusers layout.*{part}"):
        sdlearn.load(folder, "cpu")


def test_missing_weights_and_configs_are_named(folder):
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"vae/config\.json"):
        sdlearn.load(folder, "cpu")
    (folder / "unet" / WEIGHT_FILES["unet"]).unlink()
    with pytest.raises(ValueError, match=r"unet.*weights"):
        sdlearn.load(folder, "cpu")


def test_models_of_another_kind_are_refused(folder):
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"addition_embed_type": "text_time"}))
    with pytest.raises(ValueError, match="'text_time'"):  # an SDXL
        sdlearn.load(folder, "cpu")


# -- the hub -------------------------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """The part of the hub's interface that its client uses, over a local folder for each repository."""

    def __init__(self, repositories: dict[str, Path | int | tuple[int, str]]):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories, self.fetched, self.tokens = repositories, [], set()
        self.cut_off_after = None
        self.endpoint = f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body: bool):
        hub = self.server
        hub.tokens.add(self.headers.get("Authorization"))
        path = self.path.split("?")[0].removeprefix("/api/models").strip("/").split("/")
        folder = hub.repositories.get("/".join(path[:2]), (404, "RepoNotFound"))
        if not isinstance(folder, Path):
            status, code = folder if isinstance(folder, tuple) else (folder, None)
            return self.send(status, b"{}", {"X-Error-Code": code} if code else {}, with_body)
        if not self.path.startswith("/api/"):  # /owner/name/resolve/revision/file
            name = "/".join(path[4:])
            if with_body:
                hub.fetched.append(name)
            data = (folder / name).read_bytes()
            headers = {"ETag": f'"{name.replace("/", "-")}"', "X-Repo-Commit": REVISION}
            return self.send(200, data, headers, with_body, cut=hub.cut_off_after)
        found = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        sizes = {name: (folder / name).stat().st_size for name in found}
        if path[2:3] == ["tree"]:
            body = [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in sizes.items()]
        else:
            siblings = [{"rfilename": name, "size": size, "blobId": "0"} for name, size in sizes.items()]
            body = {"id": "/".join(path[:2]), "sha": REVISION, "siblings": siblings, "private": False}
        return self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"}, with_body)

    def send(self, status, data, headers, with_body, cut=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(data[:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(cache, monkeypatch):
    """Start a hub that serves the given repositories: hub({"owner/name": folder or status})."""
    running = []

    def start(repositories):
        server = Hub(repositories)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        point_at(monkeypatch, server.endpoint)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def published(folder: Path) -> Path:
    """What repositories hold besides: other precisions, pickles, other frameworks, pictures."""
    for part, name in WEIGHT_FILES.items():
        weights = load_file(folder / part / name)
        half = {key: value.half() for key, value in weights.items()}
        save_file(half, folder / part / name.replace(".safetensors", ".fp16.safetensors"), {"format": "pt"})
        torch.save(weights, folder / part / PICKLE_FILES[part])
        (folder / part / "flax_model.msgpack").write_bytes(b"0")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"0" * 1000)
    (folder / "v1-4.ckpt").write_bytes(b"0" * 1000)
    return folder


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_only_the_files_that_are_read_are_downloaded(folder, hub, cache, dtype):
    server = hub({"someone/tiny": published(folder)})
    sd = sdlearn.load("someone/tiny", "cpu", dtype)
    assert sd.name == "someone/tiny"
    assert cache in sd.path.parents
    weights = sorted(name for name in server.fetched if name.endswith((".safetensors", ".bin", ".msgpack", ".ckpt")))
    names = {p: n.replace(".safetensors", ".fp16.safetensors" if dtype == "float16" else ".safetensors")
             for p, n in WEIGHT_FILES.items()}  # fmt: skip
    assert weights == sorted(f"{part}/{name}" for part, name in names.items())
    assert len(server.fetched) == len(set(server.fetched))
    server.fetched.clear()
    sdlearn.load("someone/tiny", "cpu", dtype)
    assert server.fetched == []


def test_a_name_stands_for_its_homes_in_order(original, hub, monkeypatch):
    moved = checkpoints.Checkpoint("sd-1.4", ("first/withdrawn", "second/home"), 1, 64, "")
    monkeypatch.setitem(checkpoints.CHECKPOINTS, "sd-1.4", moved)
    hub({"second/home": original})
    assert sdlearn.load("sd-1.4", "cpu").name == "sd-1.4"


def test_a_withdrawn_home_in_the_cache_is_used_before_the_network_is_asked(original, hub, cache):
    put_in_cache(original, cache, "runwayml/stable-diffusion-v1-5")
    server = hub({"stable-diffusion-v1-5/stable-diffusion-v1-5": original})
    assert "runwayml" in str(sdlearn.load("sd-1.5", "cpu").path)
    assert server.fetched == []


def test_the_token_comes_from_the_environment(original, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server = hub({"someone/tiny": original})
    sdlearn.load("someone/tiny", "cpu")
    assert server.tokens == {"Bearer hf_secret"}


def test_a_cached_checkpoint_needs_no_network(original, cache, monkeypatch):
    put_in_cache(original, cache, "CompVis/stable-diffusion-v1-4")
    assert sdlearn.load("sd-1.4", "cpu").name == "sd-1.4"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same_weights(sdlearn.load("CompVis/stable-diffusion-v1-4", "cpu"), sdlearn.load(original, "cpu"))


def test_a_half_finished_download_is_finished(original, hub, cache):
    snapshot = put_in_cache(original, cache, "someone/tiny")
    (snapshot / "unet" / WEIGHT_FILES["unet"]).unlink()
    server = hub({"someone/tiny": original})
    sdlearn.load("someone/tiny", "cpu")
    assert server.fetched == [f"unet/{WEIGHT_FILES['unet']}"]


def test_what_is_already_here_needs_no_room(original, hub, cache, monkeypatch):
    snapshot = put_in_cache(original, cache, "someone/tiny")
    lost = f"vae/{WEIGHT_FILES['vae']}"
    needed = (snapshot / lost).stat().st_size
    (snapshot / lost).unlink()
    hub({"someone/tiny": original})
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, needed - 1))
    with pytest.raises(OSError, match="is full"):
        sdlearn.load("someone/tiny", "cpu")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, needed))
    assert sdlearn.load("someone/tiny", "cpu").name == "someone/tiny"


def test_a_tokenizer_that_came_half_is_fetched_whole(original, hub, cache):
    snapshot = put_in_cache(original, cache, "someone/tiny")
    for name in ("merges.txt", "tokenizer.json"):
        (snapshot / "tokenizer" / name).unlink(missing_ok=True)
    source = Path(shutil.copytree(original, cache.parent / "source"))
    shutil.copy(sdlearn.model_path() / "tokenizer" / "merges.txt", source / "tokenizer")
    shutil.copy(sdlearn.model_path() / "tokenizer" / "vocab.json", source / "tokenizer")
    shutil.copy(sdlearn.model_path() / "tokenizer" / "vocab.json", snapshot / "tokenizer")
    server = hub({"someone/tiny": source})
    assert sdlearn.text.tokens(sdlearn.load("someone/tiny", "cpu"), "cat").pieces[1] == "cat</w>"
    assert "tokenizer/merges.txt" in server.fetched


def test_the_cure_for_a_damaged_download_cures_it(original, hub):
    server = hub({"someone/tiny": original})
    sd = sdlearn.load("someone/tiny", "cpu")
    blob = (sd.path / "unet" / WEIGHT_FILES["unet"]).resolve()
    blob.write_bytes(blob.read_bytes()[:1000])
    with pytest.raises(OSError, match=r"unet/.*damaged") as caught:
        sdlearn.load("someone/tiny", "cpu")
    shutil.rmtree(re.search(r"Delete (.+) and fetch", str(caught.value))[1])
    server.fetched.clear()
    assert_same_weights(sdlearn.load("someone/tiny", "cpu"), sdlearn.load(original, "cpu"))
    assert f"unet/{WEIGHT_FILES['unet']}" in server.fetched


def test_diffusers_reads_what_was_downloaded(folder, hub):
    """The pipeline needs model_index.json, and to be told of a half-precision download."""
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    index |= {"feature_extractor": ["transformers", "CLIPImageProcessor"], "requires_safety_checker": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    server = hub({"someone/tiny": published(folder)})
    optional = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    sd = sdlearn.load("someone/tiny", "cpu", "float16")
    assert not any(name.startswith(("safety_checker", "feature_extractor")) for name in server.fetched)
    pipe = StableDiffusionPipeline.from_pretrained(sd.path, variant="fp16", **optional)
    for key, value in sd.unet.state_dict().items():
        torch.testing.assert_close(pipe.unet.state_dict()[key].half(), value, rtol=0, atol=0)


def test_a_connection_that_breaks_leaves_nothing_that_loads(original, hub, cache):
    server = hub({"someone/tiny": original})
    server.cut_off_after = 100
    with pytest.raises(OSError, match=r"someone/tiny.*emoji"):
        sdlearn.load("someone/tiny", "cpu")
    server.cut_off_after = None
    assert_same_weights(sdlearn.load("someone/tiny", "cpu"), sdlearn.load(original, "cpu"))


FAILURES = {
    "gated": ((403, "GatedRepo"), "gated.*/someone/tiny.*HF_TOKEN"),
    "gone": ((404, "RepoNotFound"), "withdrawn.*misspelt.*private"),
    "private": ((401, "RepoNotFound"), "withdrawn.*misspelt.*private"),
    "forbidden": (403, "403.*HF_TOKEN"),
    "disabled": ((403, "DisabledRepo"), "closed.*403"),
    "busy": (429, "429.*later"),
    "down": (503, "503.*later"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_each_refusal_of_the_hub_says_what_to_do(failure, hub):
    answer, said = FAILURES[failure]
    hub({"someone/tiny": answer})
    with pytest.raises(OSError, match=said) as caught:
        sdlearn.load("someone/tiny", "cpu")
    assert "emoji" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_token_that_is_refused_says_so(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    hub({"someone/tiny": 401})
    with pytest.raises(OSError, match=r"token.*401.*HF_TOKEN.*/settings/tokens"):
        sdlearn.load("someone/tiny", "cpu")


# What hf_xet, the downloader of large files, raises is always a RuntimeError.
BROKEN_OFF = {
    "lost": (RuntimeError("Task error: CAS Client Error: error sending request"), "someone/tiny.*again"),
    "full": (RuntimeError("I/O error: No space left on device (os error 28)"), "full.*HF_HOME"),
    "full, too": (OSError(errno.ENOSPC, "No space left on device"), "full.*No space left"),
    "read-only": (PermissionError(errno.EACCES, "Permission denied", "/cache"), "/cache.*written.*HF_HOME"),
}


@pytest.mark.parametrize("failure", BROKEN_OFF)
def test_a_download_that_breaks_off_says_what_to_do(failure, original, hub, monkeypatch):
    error, said = BROKEN_OFF[failure]

    def broken(*_, **__):
        raise error

    hub({"someone/tiny": original})
    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(OSError, match=said) as caught:
        sdlearn.load("someone/tiny", "cpu")
    assert "\n" not in str(caught.value)


def test_no_network_says_so(cache):
    with pytest.raises(OSError, match=r"cannot be reached.*connection.*emoji") as caught:
        sdlearn.load("sd-1.5", "cpu")
    assert str(caught.value).count("cannot be reached") == 1  # though it has two homes


def test_offline_mode_says_so(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"cache.*HF_HUB_OFFLINE.*unset"):
        sdlearn.load("sd-1.5", "cpu")


def test_a_full_disk_is_noticed_before_the_download(original, hub, monkeypatch):
    server = hub({"someone/tiny": original})
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 0))
    with pytest.raises(OSError, match=r"full.*GB.*0\.0 GB.*HF_HOME"):
        sdlearn.load("someone/tiny", "cpu")
    assert server.fetched == []


def test_a_repository_of_another_kind_is_refused_before_it_is_downloaded(folder, hub):
    shutil.rmtree(folder / "unet")
    server = hub({"someone/flux": folder})
    with pytest.raises(OSError, match=r"someone/flux.*unet"):
        sdlearn.load("someone/flux", "cpu")
    assert server.fetched == []


def test_downloads_show_their_progress_even_when_quiet():
    sdlearn.quiet()
    assert not huggingface_hub.utils.are_progress_bars_disabled()
    sdlearn.load(device="cpu")
    assert not huggingface_hub.utils.are_progress_bars_disabled()


# -- devices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "unet", "vae"),
    [
        ("float32", torch.float32, torch.float32),
        ("float16", torch.float16, torch.float32),  # where the autoencoder may overflow
        ("bfloat16", torch.bfloat16, torch.bfloat16),
    ],
)
def test_the_autoencoder_is_never_in_float16(original, dtype, unet, vae):
    sd = sdlearn.load(original, "cpu", dtype)
    assert (sd.dtype, sd.text_encoder.dtype, sd.vae.dtype) == (unet, unet, vae)
    picture = sdlearn.text_to_image(sd, "a cat", seed=1, num_inference_steps=2)
    assert picture.size == (sd.width, sd.height)


def test_low_memory_draws_the_same_picture(original):
    plain, low = sdlearn.load(original, "cpu"), sdlearn.load(original, "cpu", low_memory=True)
    assert low.vae.use_slicing and low.vae.use_tiling
    options = {"seeds": [1, 2], "num_inference_steps": 3}
    ours, theirs = (np.stack(sdlearn.text_to_image(sd, "a cat", **options)).astype(int) for sd in (plain, low))
    assert np.abs(ours - theirs).max() <= 1  # one picture at a time rounds differently


def test_an_offloaded_unet_keeps_no_weights_and_draws_the_same_latents(original):
    plain, low = sdlearn.load(original, "cpu"), sdlearn.load(original, "cpu")
    accelerate.cpu_offload(low.unet, torch.device("cpu"))
    assert all(p.device.type == "meta" for p in low.unet.parameters())
    assert low.device.type == "cpu"
    a, b = (list(sdlearn.denoise(sd, "a cat", seed=1, num_inference_steps=3))[-1].latents for sd in (plain, low))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_low_memory_holds_less_on_the_gpu(original):
    held = {}
    for low_memory in (False, True):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        sd = sdlearn.load(original, "cuda", low_memory=low_memory)
        held[low_memory] = torch.cuda.memory_allocated() - before
        assert sd.device.type == "cuda"
        assert sdlearn.text_to_image(sd, "a cat", seed=1, num_inference_steps=2).size == (sd.width, sd.height)
        del sd
    assert held[True] < held[False]
