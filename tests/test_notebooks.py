"""The notebooks: as files in git, as their run on the shipped model leaves them, and run on a model of other sizes."""

import copy
import json
import re
import subprocess
import sys

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from random_models import save_random_model

from sdlearn.show import widgets
from sdlearn.tools import book

NOTEBOOKS = book.notebooks()
BADGE = (
    "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/sdlearn/sdlearn/blob/main/notebooks/{})"
)
BOOTSTRAP = """\
# @title Set-up for Colab
# On Colab this fetches the course's package; anywhere else it does nothing.
import importlib.util
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("sdlearn") is None:
    %pip install -q --no-deps "git+https://github.com/sdlearn/sdlearn"
"""

every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)


def read(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        cell["source"] = "".join(cell["source"])
    return content


def code_cells(content):
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


# -- as files ----------------------------------------------------------------------------------------------------------


@every_notebook
def test_is_stripped_of_outputs(notebook):
    for cell in code_cells(read(notebook)):
        assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]
        assert set(cell["metadata"]) <= {"tags", "jupyter", "cellView"}, cell["id"]
    assert notebook.stat().st_size < 100_000


@every_notebook
def test_is_folded_by_its_tags_and_nowhere_else(notebook):
    """To mend it: json.loads the file, book.fold it, and write it again as nbformat does."""
    content = read(notebook)
    assert book.fold(copy.deepcopy(content)) == content
    for cell in content["cells"]:
        for tag in {"proof", "solution"} & book.tags(cell):
            assert cell["cell_type"] == "code", cell["id"]
            title = cell["source"].split("\n")[0].replace("# @", "#@")  # as ruff spaces it; Colab reads both
            assert title == f"#@title {tag.capitalize()}", f"{cell['id']}: all that Colab shows of it"


def test_folding_is_by_tag_alone_and_survives_the_tools():
    tags = ["proof", "solution", "setup", "exercise", "remove-input"]
    cells = [nbformat.v4.new_code_cell("1", metadata={"tags": [tag]}) for tag in tags]
    cells += [nbformat.v4.new_code_cell("1"), nbformat.v4.new_markdown_cell("text")]
    cells += [nbformat.v4.new_code_cell("1", metadata={"jupyter": {"source_hidden": True}, "cellView": "form"})]
    folded = book.fold(nbformat.v4.new_notebook(cells=cells))
    wanted = {"cellView": "form", "jupyter": {"source_hidden": True}}
    assert [cell["metadata"] for cell in folded["cells"]] == [
        *({"tags": [tag]} | wanted for tag in tags[:3]),
        *({"tags": [tag]} for tag in tags[3:]),
        {},
        {},
        {},
    ]
    assert book.fold(copy.deepcopy(folded)) == folded
    nbformat.validate(folded)
    run = subprocess.run(
        [sys.executable, "-m", "nbstripout"], input=nbformat.writes(folded), capture_output=True, text=True, check=True
    )
    stripped = nbformat.reads(run.stdout, as_version=4)
    assert [cell["metadata"] for cell in stripped["cells"]] == [cell["metadata"] for cell in folded["cells"]]


@every_notebook
def test_opens_with_any_python_kernel(notebook):
    content = read(notebook)
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert set(content["metadata"]) <= {"kernelspec", "language_info"}
    ids = [cell["id"] for cell in content["cells"]]
    assert len(ids) == len(set(ids))


@every_notebook
def test_names_no_place_on_one_machine(notebook):
    place = re.compile(r"(?<![\w/:.])/(home|root|work|Users|tmp|content|mnt)/|\b[A-Z]:\\")
    assert all(map(place.search, ('"/home/me/x.png"', "('/tmp/x')", r'"C:\Users"')))
    for cell in read(notebook)["cells"]:
        assert not place.search(cell["source"]), cell["id"]


@every_notebook
def test_links_to_files_that_exist(notebook):
    prose = "".join(cell["source"] for cell in read(notebook)["cells"] if cell["cell_type"] == "markdown")
    targets = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", prose)
    assert targets and [target for target in targets if not (notebook.parent / target).exists()] == []


@every_notebook
def test_has_a_live_explorer_between_what_to_try_and_what_was_seen(notebook):
    cells = read(notebook)["cells"]
    explorers = [k for k, cell in enumerate(cells) if re.search(r"^widgets\.\w+_explorer\(sd\b", cell["source"], re.M)]
    assert explorers or not notebook.stem[0].isdigit(), "nothing to try out live"
    for k in explorers:
        assert [cell["cell_type"] for cell in cells[k - 1 : k + 2]] == ["markdown", "code", "markdown"]
        explorer = cells[k]["source"].splitlines()[-1]
        assert hasattr(widgets, re.match(r"widgets\.(\w+)", explorer)[1]), "the explorer is the cell's result"


# -- as nbmake left them -----------------------------------------------------------------------------------------------


def alarming(cells) -> list[str]:
    """What would alarm a reader: anything on stderr, a warning, a traceback."""
    found = []
    for cell in cells:
        for output in cell["outputs"]:
            text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
            if output["output_type"] == "error" or output.get("name") == "stderr" or "Warning" in text:
                found.append(f"{cell.get('id')}: {text[:500]}")
    return found


def test_what_would_alarm_is_found():
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["fine"]},
        {"output_type": "stream", "name": "stdout", "text": ["UserWarning: x"]},
        {"output_type": "stream", "name": "stderr", "text": ["x"]},
        {"output_type": "error", "ename": "ValueError"},
        {"output_type": "execute_result", "data": {"text/plain": "DeprecationWarning('x')"}},
    ]
    assert len(alarming([{"outputs": outputs}])) == 4


@every_notebook
def test_prints_nothing_alarming_and_takes_no_age(notebook):
    (copy,) = book.execute([notebook])
    assert not alarming(code_cells(read(copy)))
    assert book.seconds(copy) < 300  # meant to be under 60 on two quiet cores; the summary tells the times


@every_notebook
def test_shows_on_the_site_a_scrubber_for_each_explorer_and_no_trace_of_a_widget(notebook):
    (copy,) = book.execute([notebook])
    executed = json.loads(copy.read_text(encoding="utf-8"))
    explorers = [k for k, cell in enumerate(executed["cells"]) if "_explorer(sd" in "".join(cell["source"])]
    for k in explorers:
        widget, still = executed["cells"][k]["outputs"]
        assert book.WIDGET in widget["data"]
        assert len("".join(still["data"]["text/html"])) < 600_000, "too heavy to carry"
    for cell in book.for_site(executed)["cells"]:
        for output in cell.get("outputs", []):
            text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
            assert not re.search(r"\b(Box|Widget|Explorer)\(|<sdlearn\.[\w.]*widgets", text), text
    for k in explorers:
        (still,) = executed["cells"][k]["outputs"]
        assert "sdlearn-" in "".join(still["data"]["text/html"])


# -- on a model of other sizes -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel():
    """One for all notebooks; that each runs in a kernel of its own is nbmake's to show."""
    kernel = AsyncKernelManager(kernel_name="python3")
    run_sync(kernel.start_kernel)(cwd=str(book.NOTEBOOKS))
    yield kernel
    run_sync(kernel.shutdown_kernel)(now=True)


def run_on(folder, notebook, kernel) -> None:
    """Runs a notebook on the model in a folder."""
    content = nbformat.read(notebook, as_version=4)
    first = f"%reset -f\nimport os\nos.environ['SDLEARN_MODEL'] = {str(folder)!r}"  # no name is left from before
    content.cells.insert(0, nbformat.v4.new_code_cell(first))
    NotebookClient(content, km=kernel, timeout=600).execute()
    cells = code_cells(content)
    assert cells[-1]["execution_count"] == len(cells)
    # Random weights may end anywhere, and to say so is right.
    assert not [said for said in alarming(cells) if "latents ended" not in said]


@every_notebook
def test_runs_on_a_model_of_another_geometry(notebook, kernel, random_folder):
    run_on(random_folder, notebook, kernel)


SCHEDULES = {  # as published models have them
    "leading": {"timestep_spacing": "leading"},
    "zero terminal SNR": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    "linspace": {"prediction_type": "epsilon", "timestep_spacing": "linspace"},
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stem", ["02_schedulers", "05_guided_unet_loop"])
def test_lessons_on_samplers_hold_for_models_of_other_schedules(stem, name, kernel, tmp_path):
    run_on(
        save_random_model(tmp_path / "model", sample_size=12, **SCHEDULES[name]),
        book.NOTEBOOKS / f"{stem}.ipynb",
        kernel,
    )
