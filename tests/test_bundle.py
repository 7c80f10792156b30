"""A folder for machines without internet: what it refuses, and that it installs and draws with the network cut off."""

import hashlib
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sdlearn
from sdlearn.tools import bundle
from sdlearn.tools.cli import main

ALONE = ["unshare", "--map-root-user", "--net"]  # a process that has no network but its own
DRAW = """
import socket, sdlearn
assert [name for _, name in socket.if_nameindex()] == ["lo"], "there is a network"
picture = sdlearn.text_to_image(sdlearn.load(), "an ink owl", seed=1, num_inference_steps=4, progress=False)
picture.save("owl.png")
print(sdlearn.__file__)
"""


def test_a_platform_is_a_system_with_this_python_or_another():
    here, *others = bundle.targets(["windows", "macos-3.12", str(bundle.here())])
    assert here == bundle.here()
    assert list(map(str, others)) == [f"windows-{here.python}", "macos-3.12"]
    for word in ("beos", "windows-3", "linux-2.7", "linux-x"):
        with pytest.raises(ValueError, match=r"no platform: take one of linux, macos, windows"):
            bundle.targets([word])


def test_marks_of_requirements_are_read_as_on_the_other_system():
    from packaging.markers import Marker

    marks = bundle.Target("windows", "3.12").marks
    assert Marker("sys_platform == 'win32' and python_version >= '3.12'").evaluate(marks)
    assert not Marker("platform_system == 'Linux' or platform_machine == 'x86_64'").evaluate(marks)


def test_a_folder_with_other_things_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["course", "--bundle", str(tmp_path)]) == 1
    assert "holds other things" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_installer_says_for_which_pythons_the_folder_is(tmp_path):
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "linux-3.99.txt").touch()
    shutil.copy(bundle.INSTALLER, tmp_path)
    run = subprocess.run([sys.executable, tmp_path / "install.py", tmp_path / "new"], capture_output=True, text=True)
    assert run.returncode == 1 and "serves linux-3.99, and here is" in run.stderr
    assert not (tmp_path / "new").exists()


def cpu_builds_are_to_be_had() -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(bundle.CPU, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False
    return True


@pytest.mark.skipif(not os.environ.get("CI"), reason="it takes minutes; with CI=1 in the environment it runs")
@pytest.mark.skipif(sys.platform != "linux", reason="the network is cut off by Linux's means")
def test_it_installs_and_draws_with_the_network_cut_off(tmp_path):
    if shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no process be without a network")
    kit, where = tmp_path / "kit", tmp_path / "class"
    torch = [] if cpu_builds_are_to_be_had() else ["--torch", f"torch=={version('torch').split('+')[0]}"]
    try:
        assert main(["course", "--bundle", str(kit), *torch]) == 0
        sums = dict(line.split("  ")[::-1] for line in (kit / bundle.SUMS).read_text().splitlines())
        files = {file.relative_to(kit).as_posix() for file in kit.rglob("*") if file.is_file()}
        assert files == {*sums, bundle.SUMS} and {"install.sh", "notebooks/teacher/teaching_plans.md"} <= files
        for name, known in sums.items():
            assert hashlib.sha256((kit / name).read_bytes()).hexdigest() == known, name

        bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        bare |= {"PYTHON": sys.executable}
        run = subprocess.run([*ALONE, "sh", kit / "install.sh", where], env=bare, capture_output=True, text=True)
        assert run.returncode == 0, f"{run.stdout}{run.stderr}"
        assert "OK    Shipped model: draws" in run.stdout
        assert "#@title Solution" not in (where / "notebooks" / "00_quickstart.ipynb").read_text().replace("# @", "#@")

        python = where / "env" / "bin" / "python"
        run = subprocess.run([*ALONE, python, "-c", DRAW], env=bare, cwd=where, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert Path(run.stdout.strip()).is_relative_to(where), "what draws is what was installed"
        drawn = np.asarray(Image.open(where / "owl.png"), dtype=float)
    finally:
        for folder in (kit, where):  # gigabytes
            shutil.rmtree(folder, ignore_errors=True)
    emoji = sdlearn.load("emoji", device="cpu", dtype="float32")
    ours = sdlearn.text_to_image(emoji, "an ink owl", seed=1, num_inference_steps=4, progress=False)
    assert np.abs(drawn - np.asarray(ours, dtype=float)).max() <= 2
