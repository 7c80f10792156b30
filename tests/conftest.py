"""What every test shares: the shipped model, a small random one of another geometry, and a quiet, offline process."""

from __future__ import annotations

import os

# Before torch starts its threads and before any kernel is launched.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # nbmake's kernel is this environment's, not a user-wide one

import hypothesis
import pytest
from random_models import save_random_model

import sdlearn

sdlearn.quiet()


def pytest_configure(config):
    # diffusers' schedulers hand tensors to numpy in a way that numpy 2 remarks on.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")
    # A loaded machine is no defect of the code.
    hypothesis.settings.register_profile("course", deadline=None)
    hypothesis.settings.load_profile("course")


@pytest.fixture(scope="session")
def emoji():
    """The shipped model, whatever SDLEARN_MODEL says."""
    return sdlearn.load("emoji", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory):
    """A Stable-Diffusion-shaped model that shares no size with the shipped one: factor 8, v-prediction."""
    return save_random_model(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="session")
def random_sd(random_folder):
    return sdlearn.load(random_folder, device="cpu", dtype="float32")
