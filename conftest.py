"""Three tiers of tests, and every notebook one of them.

`pytest -m core` is formulas, files and the plan, in under a minute; `pytest -m models` runs networks; `full` is the
rest, the notebooks, the site and the browser. `pytest` runs all three.

A notebook is run by nbmake on a copy: the notebook in git stays without outputs, and the executed copy under
_build/executed is what the later tests look at and what the book is made of.
"""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from sdlearn.tools import book

# Before any kernel is launched.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel is this environment's, not a user-wide one


TIERS = {
    "core": "animation autoencoder conventions guidance machine packaging predict samplers schedule scrubber "
    "text tiers",
    "models": "artwork attention batch bench checkpoints classroom cli costs exercises figures learning lora mutants "
    "optimize pipelines playground sampling training",
    "full": "bundle casebook lessons live notebooks playground_site site slides teaching widgets",
}
BEFORE = pytest.StashKey[float]()  # seconds of processors when a test began


def tier(path: Path) -> str | None:
    """Of tests/test_NAME.py as the table says; every notebook is `full`."""
    if path.suffix == ".ipynb":
        return "full"
    return next((tier for tier, names in TIERS.items() if path.stem.removeprefix("test_") in names.split()), None)


def pytest_configure(config):
    config.option.overwrite = True  # of the copies; the originals are never run


def pytest_ignore_collect(collection_path, config):
    """One tier asked for by its name is not kept waiting by what the others import."""
    wanted = config.option.markexpr
    if wanted in TIERS and collection_path.is_file() and tier(collection_path) not in (wanted, None):
        return True


def pytest_collection_modifyitems(items):
    for item in items:
        if name := tier(item.path):
            item.add_marker(name)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n 2`: what is `full` keeps its order on one worker, and the others take the rest, file by file."""
    from xdist.scheduler import LoadScopeScheduling

    class ByTier(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return "full" if tier(Path(file)) == "full" else file

    config.option.loadscopereorder = False  # the notebooks, which take longest, begin
    return ByTier(config, log)


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    now = processor_seconds()
    report.tier, report.processor = tier(item.path) or "none", now - item.stash.get(BEFORE, now)
    item.stash[BEFORE] = now


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    item.stash[BEFORE] = processor_seconds()
    if getattr(item, "nbmake", False):
        original = Path(item.filename)
        copy = book.executed_copy(original)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, copy)
        item.filename = str(copy)


def pytest_terminal_summary(terminalreporter):
    spent, finished = {}, {}
    for report in (r for reports in terminalreporter.stats.values() for r in reports if hasattr(r, "tier")):
        counts = {"tests": report.when == "setup", "wall": report.duration, "processor": report.processor}
        spent.setdefault(report.tier, Counter()).update(counts)
        if report.when == "call" and ".ipynb" in report.nodeid:
            finished[Path(report.nodeid.split("::")[0]).stem] = report
    if finished:
        terminalreporter.section("notebooks")
        for name, report in sorted(finished.items()):
            terminalreporter.line(f"{name:35} " + (f"{report.duration:6.1f} s" if report.passed else "did not finish"))
    if spent:
        terminalreporter.section("tiers")
        for name, sums in sorted(spent.items()):
            line = "{tests:5} tests {wall:6.0f} s, {processor:6.0f} s of processor time".format(**sums)
            terminalreporter.line(f"{name:10}{line}")
    if peak := peak_memory():
        terminalreporter.line(f"peak memory of one process: {peak / 2**20:.0f} MiB")


def peak_memory() -> int | None:
    """Bytes, of this process or of the largest of its finished children; None where the system does not tell."""
    if os.name != "posix":
        return None
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as p:
        if not (system or Path(p.chromium.executable_path).is_file()):
            pytest.skip("there is no Chromium on this machine; get one with: playwright install chromium")
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        chromium = p.chromium.launch(executable_path=system, args=quiet)
        yield chromium
        chromium.close()
