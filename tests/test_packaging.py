"""What is handed out: the wheel, the shipped model's files, the environments, the README, the run that checks them."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

import sdlearn
from sdlearn.tools.book import COVER, ROOT, notebooks

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def run_python(code: str, **env: str) -> str:
    # -P: from the installation, not from the working directory.
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env={**os.environ, **env})
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_importing_sdlearn_is_quick_and_loads_no_heavy_library():
    code = "import sys, time; t = time.perf_counter(); import sdlearn; print(time.perf_counter() - t, *sys.modules)"
    seconds, *modules = min((run_python(code).split() for _ in range(3)), key=lambda words: float(words[0]))
    assert float(seconds) < 0.5
    heavy = {"torch", "numpy", "PIL", "diffusers", "transformers", "accelerate", "huggingface_hub", "matplotlib"}
    assert not heavy & set(modules)


def test_conda_environment_is_in_step_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["course"]]
    renamed = [re.sub(r"^[\w-]+", lambda m: CONDA_NAMES.get(m[0], m[0]), need) for need in needed]
    assert sorted(conda) == sorted(["python" + PROJECT["requires-python"], *renamed, "pip"])
    assert pip == {"pip": ["-e ."]} and environment["channels"] == ["conda-forge"]


def test_no_dependency_has_an_upper_bound_that_would_replace_what_colab_has():
    for need in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["course"]]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", need), need


def test_continuous_integration_runs_the_command_of_the_readme():
    command = re.search(r"^pip install .* && pytest$", README, re.MULTILINE)
    assert command, "the README gives no test command"
    install, test = command[0].split(" && ")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert install in script and script[-1] == test


def test_readme_maps_every_notebook_with_its_badge():
    row = r"^\| (\d\d )?\| \[.+?\]\(notebooks/(.+?)\) \| .+ \| \[!\[.+?\]\(.+?\)\]\((.+?)\) \|$"
    rows = re.findall(row, README, re.MULTILINE)
    home = PROJECT["urls"]["Homepage"].replace("https://github.com", "https://colab.research.google.com/github")
    assert [name for _, name, _ in rows] == [notebook.name for notebook in notebooks()]
    for number, name, link in rows:
        assert name.startswith(number.strip()) and link == f"{home}/blob/main/notebooks/{name}"


def test_readme_links_lead_to_files():
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert len(targets) > 10 and [target for target in targets if not (ROOT / target).exists()] == []
    assert COVER.stat().st_size < 150_000


def test_weights_are_safetensors_under_the_names_that_every_transformers_release_reads():
    files = [file for file in sdlearn.model_path().rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt", ".md"}
    # transformers from 5.6 writes names without this prefix; older releases then take random weights in their place.
    with safe_open(sdlearn.model_path() / "text_encoder" / "model.safetensors", "pt") as weights:
        assert all(name.startswith("text_model.") for name in weights.keys())  # noqa: SIM118 (no iterator)


def test_text_encoder_config_asks_for_the_number_format_that_diffusers_gives_the_other_parts():
    # transformers 5 obeys the config, diffusers does not: with float16 there a plain from_pretrained mixes the two.
    config = json.loads((sdlearn.model_path() / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "float32"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    run = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel's files as pip lays them out: a wheel of pure Python is unpacked and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_wheel_is_small_enough_to_publish(wheel):
    assert wheel.stat().st_size < 50 * 2**20


def test_wheel_carries_a_model_that_diffusers_loads(installed):
    found = run_python("import sdlearn; print(sdlearn.model_path())", PYTHONPATH=str(installed))
    assert found == str(installed / "sdlearn" / "emoji")
    assert StableDiffusionPipeline.from_pretrained(found).unet.dtype == torch.float32
    few = run_python("import sdlearn; print(sdlearn.load(lora='few-steps').name)", PYTHONPATH=str(installed))
    assert few == "emoji + few-steps"


def test_wheel_carries_the_notebooks_that_the_course_command_lays_out(installed):
    code = "from sdlearn.tools.course import notebooks; print(*sorted(n.name for n in notebooks().glob('*.ipynb')))"
    listed = run_python(code, PYTHONPATH=str(installed)).split()
    assert listed == sorted(notebook.name for notebook in notebooks())


@pytest.mark.parametrize("command", [["check"], ["format", "--diff"]])
def test_source_is_clean(command):
    ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
    run = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
