"""The command line: what each command does, what it says when it cannot, and what it never overwrites."""

import csv
import errno
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

import sdlearn
from sdlearn.hub import checkpoints
from sdlearn.tools import book, course, doctor, generate
from sdlearn.tools.cli import main

ROOT = Path(sdlearn.__file__).parent.parent
COMMANDS = ("course", "book", "generate", "models", "doctor", "bench", "train")


def python(*args: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | env,
        timeout=500,
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# -- cheap to import -----------------------------------------------------------------------------------------------


def test_nothing_heavy_is_imported_before_it_is_used():
    import_it = "import sdlearn.tools.cli; sdlearn.tools.cli._parser(False).format_help()"
    heavy = ["torch", "numpy", "PIL", "diffusers", "transformers", "accelerate", "huggingface_hub", "matplotlib"]
    code = f"import sys; {import_it}; print(*(m for m in {heavy} if m in sys.modules))"
    assert python("-c", code).stdout.split() == []


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert set(COMMANDS) <= set(re.findall(r"^    (\w+)", capsys.readouterr().out, re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"sdlearn {command}" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert sdlearn.__version__ in capsys.readouterr().out


def test_models_prints_the_catalogue(capsys):
    assert main(["models"]) == 0
    assert capsys.readouterr().out.strip() == str(sdlearn.models())


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompts", "none.txt", "--out", "out"], "none.txt"),
        (["--prompts", "empty.txt", "--out", "out"], "holds no prompts"),
        (["--prompts", "prompts.txt", "--out", "out", "--batch-size", "0"], "at least 1"),
        (["--prompts", "prompts.txt", "--out", "out", "--sampler", "warp"], "Unknown sampler 'warp'"),
        (["--prompts", "prompts.txt", "--out", "out", "--width", "63"], "multiples of 8"),
        (["--prompts", "prompts.txt", "--out", "out", "--model", "nobody"], "There is no model 'nobody'"),
        (["--prompts", "latin.txt", "--out", "out"], "not a text file in UTF-8"),
    ],
)
def test_what_a_user_can_cause_ends_in_one_sentence(arguments, said, tmp_path, monkeypatch, capsys, random_folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDLEARN_MODEL", str(random_folder))
    Path("empty.txt").write_text("\n \n")
    Path("prompts.txt").write_text("a cat\n")
    Path("latin.txt").write_bytes("naïve".encode("latin-1"))
    assert main(["generate", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("sdlearn: ")
    assert said in error
    assert "\n" not in error


def test_a_full_device_says_what_to_change(monkeypatch, capsys):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(doctor, "examine", full)
    assert main(["doctor"]) == 1
    assert "--batch-size" in capsys.readouterr().err


def test_bugs_keep_their_traceback(monkeypatch):
    def bug():
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(doctor, "examine", bug)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["doctor"])


def test_a_keyboard_interrupt_ends_quietly(monkeypatch, capsys):
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", stopped)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "sdlearn: stopped.\n"


# -- course --------------------------------------------------------------------------------------------------------


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """A course of two files, as a wheel carries it."""
    folder = tmp_path / "installed" / "notebooks"
    (folder / "pictures").mkdir(parents=True)
    (folder / "00_quickstart.ipynb").write_text("first version")
    (folder / "pictures" / "map.png").write_bytes(b"png")
    for clutter in (".ipynb_checkpoints", "_build"):
        (folder / clutter).mkdir()
        (folder / clutter / "00_quickstart.ipynb").write_text("clutter")
    monkeypatch.setattr(course, "PACKED", folder)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def started(monkeypatch):
    """The commands that would have started JupyterLab."""
    commands = []

    class Server:
        def __init__(self, command):
            commands.append(command)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Server)
    return commands


def test_course_lays_the_notebooks_out_and_opens_them(notebooks, started, tmp_path):
    assert main(["course", "--no-browser", "--port", "9999", "--", "--allow-root"]) == 0
    work = tmp_path / "sdlearn-course"
    laid_out = sorted(file.relative_to(work).as_posix() for file in work.rglob("*") if file.is_file())
    assert laid_out == [course.RECORD, "00_quickstart.ipynb", "pictures/map.png"]
    (command,) = started
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert {"--no-browser", "--port=9999", "--allow-root", f"--ServerApp.root_dir={work}"} <= set(command)
    assert "--LabApp.default_url=/lab/tree/00_quickstart.ipynb" in command


def test_course_never_overwrites_what_a_learner_wrote(notebooks, started, tmp_path, capsys):
    main(["course", "--dir", "mine"])
    (tmp_path / "mine" / "00_quickstart.ipynb").write_text("my answers")
    (notebooks / "00_quickstart.ipynb").write_text("second version")
    (notebooks / "01_forward_noising.ipynb").write_text("new")
    capsys.readouterr()
    assert main(["course", "--dir", "mine"]) == 0
    assert (tmp_path / "mine" / "00_quickstart.ipynb").read_text() == "my answers"
    assert (tmp_path / "mine" / "01_forward_noising.ipynb").read_text() == "new"
    said = capsys.readouterr().out
    assert said.startswith("1 files of the course are new")
    assert "Kept as you left them: 00_quickstart.ipynb." in said


@pytest.fixture
def lessons(notebooks, monkeypatch):
    """A course of three notebooks with an exercise each, laid out for a student in the folder mine; writes them."""

    def write(name: str, first: str = "x = 1", stub: str = "...", *, module: str) -> Path:
        sources = {"a": first, "i": f"from sdlearn.exercises import {module} as exercise", "s": "solved",
                   "e": f"{stub}\nexercise.one.check({stub})"}  # fmt: skip
        tags = {"e": ["exercise"], "s": ["solution"]}
        empty = {"cell_type": "code", "execution_count": None, "outputs": []}
        cells = [{"id": k, "metadata": {"tags": tags.get(k, [])}, "source": v, **empty} for k, v in sources.items()]
        (notebooks / name).write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        return notebooks / name

    for k, name in enumerate(("00_quickstart", "01_noise", "02_more")):
        write(f"{name}.ipynb", module=f"module_{k}")
    assert course.lay_out(notebooks, Path("mine"), "student") == (4, [], [])
    return write


def edit(notebook: Path, cell: str, source: str, *more: dict) -> None:
    content = json.loads(notebook.read_text())
    next(one for one in content["cells"] if one["id"] == cell)["source"] = source
    content["cells"] += more
    notebook.write_text(json.dumps(content))


def sources(notebook: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]


def test_update_brings_what_is_newer_with_the_answers_in_it(lessons, notebooks, started, capsys):
    mine = Path("mine").resolve()
    own = {"cell_type": "markdown", "id": "mine", "metadata": {}, "source": "my notes"}
    edit(mine / "01_noise.ipynb", "e", "my answer\nexercise.one.check(1)", own)
    answered = (mine / "01_noise.ipynb").read_bytes()
    lessons("01_noise.ipynb", "x = 2", module="module_1")  # changed, and answered
    lessons("02_more.ipynb", "x = 2", module="module_2")  # changed, and not touched
    lessons("03_new.ipynb", module="module_3")
    (notebooks / "pictures" / "map.png").write_bytes(b"a better one")
    assert main(["course", "--dir", "mine", "--no-browser"]) == 0
    said = capsys.readouterr().out
    assert "Kept as you left them: 01_noise.ipynb." in said
    assert "newer ones of 01_noise.ipynb, 02_more.ipynb, pictures/map.png." in said and "--update" in said
    assert (mine / "01_noise.ipynb").read_bytes() == answered
    started.clear()
    assert main(["course", "--dir", "mine", "--update"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"Up to date: {mine}",
        "newer: 01_noise.ipynb, with your answer to one; 1 cell of your own; as it was: 01_noise.old.ipynb",
        "newer: 02_more.ipynb",
        "newer: pictures/map.png",
    ]
    assert (mine / "01_noise.old.ipynb").read_bytes() == answered
    assert sources(mine / "01_noise.ipynb") == [
        "x = 2", "from sdlearn.exercises import module_1 as exercise", "my answer\nexercise.one.check(1)", "my notes",
    ]  # fmt: skip
    assert sources(mine / "02_more.ipynb")[0] == "x = 2" and "solved" not in sources(mine / "02_more.ipynb")
    assert sources(mine / "03_new.ipynb")[0] == "x = 1", "it was laid out when the course was opened"
    assert not started, "nothing is opened"
    before = {file: file.read_bytes() for file in mine.rglob("*") if file.is_file()}
    assert main(["course", "--dir", "mine", "--update"]) == 0
    assert capsys.readouterr().out == f"Nothing is newer than what is in {mine}\n"
    assert {file: file.read_bytes() for file in mine.rglob("*") if file.is_file()} == before
    edit(mine / "01_noise.ipynb", "e", "better\nexercise.one.check(2)")
    lessons("01_noise.ipynb", "x = 3", module="module_1")
    main(["course", "--dir", "mine", "--update"])
    assert "1 cell of your own; as it was: 01_noise.old2.ipynb" in capsys.readouterr().out
    assert sources(mine / "01_noise.ipynb")[0] == "x = 3" and "my notes" in sources(mine / "01_noise.ipynb")


def test_update_brings_back_what_is_missing_and_leaves_what_is_the_readers(lessons, notebooks, monkeypatch, capsys):
    mine = Path("mine").resolve()
    edit(mine / "00_quickstart.ipynb", "e", "my answer\nexercise.one.check(0)")
    (mine / "01_noise.ipynb").unlink()
    (mine / "02_more.ipynb").rename(mine / "another name.ipynb")
    (mine / "diary.txt").write_text("mine")
    (mine / "pictures" / "map.png").write_bytes(b"painted over")
    monkeypatch.chdir(mine)  # here the folder needs no name
    assert main(["course", "--update"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"Up to date: {mine}", "back:  01_noise.ipynb", "back:  02_more.ipynb"]
    assert (mine / "another name.ipynb").is_file() and (mine / "diary.txt").read_text() == "mine"
    assert (mine / "pictures" / "map.png").read_bytes() == b"painted over", "the course has no newer one"
    assert "my answer\nexercise.one.check(0)" in sources(mine / "00_quickstart.ipynb")


def test_update_follows_a_notebook_that_has_another_name_now(lessons, notebooks, capsys):
    mine = Path("mine").resolve()
    for name in ("01_noise.ipynb", "02_more.ipynb"):
        edit(mine / name, "e", "my answer\nexercise.one.check(1)")
    (notebooks / "01_noise.ipynb").unlink()
    (notebooks / "02_more.ipynb").rename(notebooks / "05_more.ipynb")
    answered = {name: (mine / name).read_bytes() for name in ("01_noise.ipynb", "02_more.ipynb")}
    assert main(["course", "--dir", "mine", "--update"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "new:   05_more.ipynb, in the place of 02_more.ipynb, with your answer to one",
        "left:  01_noise.ipynb, which the course no longer has",
        "left:  02_more.ipynb, which the course no longer has",
    ]
    assert "my answer\nexercise.one.check(1)" in sources(mine / "05_more.ipynb")
    assert {name: (mine / name).read_bytes() for name in answered} == answered


def test_update_keeps_what_it_cannot_read_and_a_folder_of_before_there_was_a_record(lessons, notebooks, capsys):
    mine = Path("mine")
    (mine / course.RECORD).write_text("torn")
    (mine / "01_noise.ipynb").write_text("half a notebook")
    edit(mine / "02_more.ipynb", "e", "my answer\nexercise.one.check(1)")
    assert main(["course", "--student", "--dir", "mine", "--update"]) == 0
    said = capsys.readouterr().out
    assert "newer: 01_noise.ipynb; as it was: 01_noise.old.ipynb" in said
    assert "newer: 02_more.ipynb, with your answer to one; as it was: 02_more.old.ipynb" in said
    assert (mine / "01_noise.old.ipynb").read_text() == "half a notebook"
    assert sources(mine / "01_noise.ipynb")[0] == "x = 1"


def test_an_update_that_the_disk_breaks_off_loses_nothing(lessons, notebooks, monkeypatch, capsys):
    mine = Path("mine").resolve()
    for name in ("01_noise.ipynb", "02_more.ipynb"):
        edit(mine / name, "e", "my answer\nexercise.one.check(1)")
        lessons(name, "x = 2", module=f"module_{name[1]}")
    replace, written = Path.replace, []

    def full(path, target):
        if len(written) == 1 and target.suffix == ".ipynb":
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(target)
        return replace(path, target)

    monkeypatch.setattr(course.Path, "replace", full)
    assert main(["course", "--dir", "mine", "--update"]) == 1
    assert "make room" in capsys.readouterr().err
    assert sources(mine / "02_more.ipynb")[0] == "x = 1" and "my answer" in sources(mine / "02_more.ipynb")[2]
    monkeypatch.setattr(course.Path, "replace", replace)
    assert main(["course", "--dir", "mine", "--update"]) == 0
    for name in ("01_noise.ipynb", "02_more.ipynb"):
        assert sources(mine / name)[0] == "x = 2" and "my answer" in sources(mine / name)[2]
    assert not list(mine.glob("*.part"))


@pytest.mark.parametrize("name", ["01", "01_noise", "01_noise.ipynb"])
def test_reset_starts_one_notebook_again_and_keeps_the_old_one(lessons, started, name, capsys):
    mine = Path("mine").resolve()
    fresh = (mine / "01_noise.ipynb").read_bytes()
    (mine / "01_noise.old.ipynb").write_text("of last week")
    edit(mine / "01_noise.ipynb", "e", "my answer")
    edit(mine / "02_more.ipynb", "e", "my answer")
    changed = {name: (mine / name).read_bytes() for name in ("01_noise.ipynb", "02_more.ipynb")}
    assert main(["course", "--dir", "mine", "--reset", name]) == 0
    assert f"Yours is kept: {mine / '01_noise.old2.ipynb'}" in capsys.readouterr().out
    assert (mine / "01_noise.ipynb").read_bytes() == fresh
    assert (mine / "01_noise.old2.ipynb").read_bytes() == changed["01_noise.ipynb"]
    assert (mine / "01_noise.old.ipynb").read_text() == "of last week"
    assert (mine / "02_more.ipynb").read_bytes() == changed["02_more.ipynb"]
    assert main(["course", "--dir", "mine", "--reset", name]) == 0
    assert "kept" not in capsys.readouterr().out and not started


def test_reset_and_update_say_what_they_do_not_find(lessons, notebooks, monkeypatch, capsys):
    for name, said in (("0", "more than one"), ("nine", "no notebook"), ("", "more than one")):
        assert main(["course", "--dir", "mine", "--reset", name]) == 1
        assert said in (error := capsys.readouterr().err) and "01_noise.ipynb" in error
    assert main(["course", "--update"]) == 1
    assert "no folder of the course here; name yours with --dir" in capsys.readouterr().err
    for version in ("student", "teacher"):
        Path(f"sdlearn-course-{version}").mkdir()
    assert main(["course", "--update"]) == 1
    assert "There are 2 folders" in capsys.readouterr().err
    assert main(["course", "--dir", "mine", "--teacher", "--update"]) == 1
    assert "for a student" in capsys.readouterr().err
    assert main(["course", "--dir", str(notebooks), "--update"]) == 1
    assert "the course's own notebooks" in capsys.readouterr().err


def test_course_opens_a_clones_own_notebooks(notebooks, started, monkeypatch, tmp_path):
    monkeypatch.setattr(course, "PACKED", notebooks.parent / "sdlearn" / "notebooks")
    assert main(["course"]) == 0
    assert f"--ServerApp.root_dir={notebooks}" in started[0]
    assert not (tmp_path / "sdlearn-course").exists()


def test_course_without_jupyterlab_says_how_to_get_it(notebooks, monkeypatch, capsys):
    find_spec = course.importlib.util.find_spec
    monkeypatch.setattr(
        course.importlib.util, "find_spec", lambda name, *a: None if name == "jupyterlab" else find_spec(name, *a)
    )
    assert main(["course"]) == 1
    assert re.search(r"JupyterLab is not installed; run: .*pip install 'sdlearn\[course\]'", capsys.readouterr().err)


def test_course_without_notebooks_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(course, "PACKED", tmp_path / "sdlearn" / "notebooks")
    assert main(["course"]) == 1
    assert "has no notebooks" in capsys.readouterr().err


def test_jupyterlab_answers_on_the_port_that_was_asked_for(tmp_path):
    pytest.importorskip("jupyterlab")
    port = free_port()
    source = tmp_path / "notebooks"
    source.mkdir()
    (source / "00_quickstart.ipynb").write_text('{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5}')
    code = (
        f"import pathlib, sdlearn.tools.course as c; c.PACKED = pathlib.Path({str(source)!r}); "
        f"c.open_course({str(tmp_path / 'work')!r}, port={port}, browser=False, options=['--allow-root'])"
    )
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen([sys.executable, "-c", code], **options) as server:
        try:
            assert "version" in json.loads(_answer(f"http://127.0.0.1:{port}/api", server))
        finally:
            _stop(server)
    assert (tmp_path / "work" / "00_quickstart.ipynb").is_file()


def _answer(url: str, server: subprocess.Popen) -> bytes:
    for _ in range(240):
        assert server.poll() is None, server.stderr.read()
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read()
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"{url} did not answer in two minutes")


def _stop(server: subprocess.Popen):
    import psutil

    for process in (*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)):
        process.kill()
    server.wait()


def test_a_port_that_cannot_be_is_refused(notebooks, started, capsys):
    for port in ("-1", "0", "65536"):
        assert main(["course", "--port", port]) == 1
        assert "1 to 65535" in capsys.readouterr().err
    assert not started


def test_course_into_what_cannot_be_written_says_the_cure(notebooks, started, monkeypatch, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    assert main(["course", "--dir", "taken"]) == 1
    assert re.search(r"Cannot lay the course out in .*taken.*--dir", capsys.readouterr().err)

    def full(path, content):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(course.Path, "write_bytes", full)
    assert main(["course", "--dir", "mine"]) == 1
    assert re.search(r"No space left on device.*make room", capsys.readouterr().err)
    assert not [file for file in (tmp_path / "mine").rglob("*") if file.is_file()], "nothing half written stays"


# -- book ------------------------------------------------------------------------------------------------------------


def test_executed_copies_of_two_models_never_meet(monkeypatch, tmp_path):
    notebook = book.NOTEBOOKS / "00_quickstart.ipynb"
    for folder in ("one/model", "two/model", "emoji"):
        (tmp_path / folder).mkdir(parents=True)
    names = ("emoji", "sd-1.4", "a/model", "b/model", *(str(tmp_path / f) for f in ("one/model", "two/model", "emoji")))
    copies = []
    for name in names:
        monkeypatch.setenv("SDLEARN_MODEL", name)
        copies.append(book.executed_copy(notebook))
    assert len(set(copies)) == len(names)
    assert copies[0] == book.BUILD / "executed" / "emoji" / notebook.name
    assert {copy.parent.parent for copy in copies} == {book.BUILD / "executed"}


def test_a_copy_is_stale_when_its_model_was_written_anew(monkeypatch, tmp_path):
    monkeypatch.setattr(book, "BUILD", tmp_path / "_build")
    monkeypatch.setenv("SDLEARN_MODEL", str(tmp_path / "model"))
    (tmp_path / "model").mkdir()
    cell = {"cell_type": "code", "metadata": {"execution": {
        "iopub.status.busy": "2024-01-01T00:00:00", "shell.execute_reply": "2024-01-01T00:00:01"}}}  # fmt: skip
    notebook = book.NOTEBOOKS / "00_quickstart.ipynb"
    copy = book.executed_copy(notebook)
    copy.parent.mkdir(parents=True)
    copy.write_text(json.dumps({"cells": [cell]}))
    assert book.is_fresh(notebook)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_text("new")
    os.utime(weights, (copy.stat().st_mtime + 10,) * 2)
    assert not book.is_fresh(notebook)


@pytest.mark.parametrize("option", [[], ["--cover"]])
def test_book_and_cover_outside_a_clone_say_so(monkeypatch, tmp_path, capsys, option):
    monkeypatch.setattr(book, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(book, "COVER", tmp_path / "notebooks" / "images" / "cover.png")
    assert main(["book", *option]) == 1
    assert "clone of the repository" in capsys.readouterr().err


def test_two_books_are_not_built_at_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(book, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(book.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(book, "execute", lambda: main(["book"]) and 1 / 0)  # a second one, while the first is at work
    with pytest.raises(ZeroDivisionError):
        main(["book"])
    assert "Another `sdlearn book` is at work" in capsys.readouterr().err
    assert not (tmp_path / "_build" / "building").exists()


def test_a_book_that_cannot_be_written_says_the_cure(monkeypatch, tmp_path, capsys):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(book, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(book.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(book, "execute", full)
    assert main(["book"]) == 1
    assert re.search(r"Cannot write into .*_build \(No space left on device\); make room", capsys.readouterr().err)


def test_book_without_jupyter_book_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(book.importlib.util, "find_spec", lambda name: None)
    assert main(["book"]) == 1
    assert "Jupyter Book is not installed; in the clone run: pip install -e '.[book]'" in capsys.readouterr().err


# -- generate ------------------------------------------------------------------------------------------------------

PROMPTS = ["a cat", "a dog on a red background", "an owl"]
SETTINGS = {"num_inference_steps": 2, "guidance_scale": 3.0}


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n\n".join(PROMPTS) + "\n", encoding="utf-8")
    return file


def index(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_picture_is_drawn_named_and_listed(prompts, tmp_path, random_sd):
    out = tmp_path / "new" / "pictures"
    assert generate.generate(prompts, out, pictures=2, seed=7, batch_size=4, model=random_sd, **SETTINGS) == 0
    names = [f"{n:05d}-{k}.png" for n in range(3) for k in range(2)]
    assert sorted(file.name for file in out.iterdir()) == [*names, "index.jsonl"]
    listed = index(out)
    assert [line["file"] for line in listed] == names
    assert [(line["prompt"], line["seed"]) for line in listed] == [(p, 7 + k) for p in PROMPTS for k in range(2)]
    for line in listed:
        settings = sdlearn.read_settings(out / line["file"])
        assert line == {"file": line["file"], **settings}
        assert settings["num_inference_steps"] == 2
    alone = sdlearn.text_to_image(random_sd, PROMPTS[1], seed=8, **SETTINGS)
    assert sdlearn.pictures.to_tensor([alone, out / "00001-1.png"]).diff(dim=0).abs().max() < 0.03


def test_an_interrupted_run_continues(prompts, tmp_path, random_sd, monkeypatch):
    save, saved = generate.save_image, []

    def interrupted(image, path):
        if len(saved) == 2:
            path.with_name(path.name + ".part").write_bytes(b"half a picture")
            raise KeyboardInterrupt
        saved.append(path)
        return save(image, path)

    monkeypatch.setattr(generate, "save_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate.generate(prompts, tmp_path / "out", model=random_sd, **SETTINGS)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["00000-0.png", "00001-0.png"]
    assert len(index(tmp_path / "out")) == 2
    with (tmp_path / "out" / "index.jsonl").open("a") as torn:
        torn.write('{"file": "0000')
    before = {path: path.stat().st_mtime_ns for path in saved}
    monkeypatch.setattr(generate, "save_image", save)
    generate.generate(prompts, tmp_path / "out", model=random_sd, **SETTINGS)
    assert [line["prompt"] for line in index(tmp_path / "out")] == PROMPTS
    assert {path: path.stat().st_mtime_ns for path in saved} == before
    assert len(list((tmp_path / "out").glob("*.png"))) == len(PROMPTS)  # what a killed process left counts for nothing


def test_a_finished_run_draws_nothing(prompts, tmp_path, random_sd, monkeypatch, capsys):
    generate.generate(prompts, tmp_path / "out", model=random_sd, **SETTINGS)
    monkeypatch.setattr(generate, "text_to_image", None)
    assert generate.generate(prompts, tmp_path / "out", model=random_sd, **SETTINGS) == 0
    assert "3 of 3 pictures are already" in capsys.readouterr().out


def test_pictures_of_other_settings_are_never_overwritten(prompts, tmp_path, random_sd):
    out = tmp_path / "out"
    generate.generate(prompts, out, model=random_sd, **SETTINGS)
    with pytest.raises(ValueError, match=r"00000-0\.png was drawn with another guidance_scale \(3\.0, not 5\.0\)"):
        generate.generate(prompts, out, model=random_sd, **SETTINGS | {"guidance_scale": 5.0})
    with pytest.raises(ValueError, match=r"another seed \(0, not 9\)"):
        generate.generate(prompts, out, seed=9, model=random_sd, **SETTINGS)
    prompts.write_text("a horse\n")
    with pytest.raises(ValueError, match=r"another prompt \('a cat', not 'a horse'\)"):
        generate.generate(prompts, out, model=random_sd, **SETTINGS)
    (out / "00000-0.png").write_bytes(b"someone else's")
    with pytest.raises(ValueError, match="is no picture of this run"):
        generate.generate(prompts, out, model=random_sd, **SETTINGS)
    assert (out / "00000-0.png").read_bytes() == b"someone else's"


def test_a_run_with_every_kind_of_setting_continues(prompts, tmp_path, random_sd, monkeypatch):
    half = {"guidance_scale": sdlearn.guidance.interval(3.0, 0.5, 5.0), "progress": False, "num_inference_steps": 2}
    generate.generate(prompts, tmp_path / "out", model=random_sd, **half)
    monkeypatch.setattr(generate, "text_to_image", None)
    assert generate.generate(prompts, tmp_path / "out", model=random_sd, **half) == 0


def test_a_run_whose_guidance_cannot_be_compared_does_not_go_on(prompts, tmp_path, random_sd):
    generate.generate(
        prompts, tmp_path / "out", model=random_sd, guidance_scale=lambda level: 3.0, num_inference_steps=2
    )
    with pytest.raises(
        ValueError, match=r"00000-0\.png does not hold its guidance_scale, a function without a name, so"
    ):
        other = {"guidance_scale": lambda level: 4.0, "num_inference_steps": 2}
        generate.generate(prompts, tmp_path / "out", model=random_sd, **other)


def test_a_run_in_another_number_format_does_not_go_on(prompts, tmp_path, random_sd, random_folder):
    generate.generate(prompts, tmp_path / "out", model=random_sd, **SETTINGS)
    with pytest.raises(ValueError, match=r"another dtype \('float32', not 'bfloat16'\)"):
        half = {"name": random_folder, "device": "cpu", "dtype": "bfloat16"}
        generate.generate(prompts, tmp_path / "out", model=half, **SETTINGS)


def test_a_shorter_run_leaves_the_other_pictures_in_the_index(prompts, tmp_path, random_sd):
    generate.generate(prompts, tmp_path / "out", model=random_sd, **SETTINGS)
    prompts.write_text(PROMPTS[0])
    generate.generate(prompts, tmp_path / "out", model=random_sd, **SETTINGS)
    assert [line["prompt"] for line in index(tmp_path / "out")] == PROMPTS


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", 'id,prompt\n1,"a cat, sitting"\n2,a dog\n'),
        ("x.jsonl", '{"prompt": "a cat, sitting"}\n\n{"prompt": "a dog", "id": 2}\n'),
        ("x.txt", "a cat, sitting\r\na dog"),
    ],
)
def test_prompts_are_read_by_the_kind_of_file(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    assert generate.read_prompts(tmp_path / name) == ["a cat, sitting", "a dog"]


def test_a_line_ends_where_the_file_ends_it(tmp_path):
    (tmp_path / "x.txt").write_text("a cat\u2028with a hat\na\x0bdog", encoding="utf-8")
    assert generate.read_prompts(tmp_path / "x.txt") == ["a cat\u2028with a hat", "a\x0bdog"]


@pytest.mark.parametrize(
    ("name", "text"), [("x.csv", "text\na cat\n"), ("x.jsonl", '{"text": "a cat"}'), ("y.jsonl", "a cat")]
)
def test_a_table_without_prompts_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="prompt"):
        generate.read_prompts(tmp_path / name)


@pytest.mark.parametrize("options", [{"height": 0}, {"sampler": "nonsense"}, {"batch_size": 0}, {"pictures": 1.5}])
def test_a_bad_run_is_refused_before_the_model_is_loaded(prompts, tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        generate.generate(prompts, tmp_path / "out", model={"name": "no such model"}, **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named_with_the_cure(prompts, tmp_path, random_sd, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose another --out"):
        generate.generate(prompts, tmp_path / "file", model=random_sd, **SETTINGS)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(generate, "save_image", full)
    with pytest.raises(OSError, match="make room"):
        generate.generate(prompts, tmp_path / "out", model=random_sd, **SETTINGS)


def test_two_processes_share_the_work(prompts, tmp_path, random_folder):
    out = tmp_path / "out"
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", str(free_port()), "-m", "sdlearn"]
    work = ["generate", "--prompts", str(prompts), "--out", str(out), "--pictures", "2", "--steps", "2"]
    work += ["--device", "cpu", "--model", str(random_folder)]
    done = python(*launch, *work)
    assert done.returncode == 0, done.stderr
    assert [(line["prompt"], line["seed"]) for line in index(out)] == [(p, k) for p in PROMPTS for k in range(2)]
    assert done.stdout.count("6 pictures are in") == 1  # one of them speaks
    assert "2 processes share 6 pictures; this one draws 3." in done.stdout


def test_processes_wait_for_the_slowest_one_however_long_it_draws(monkeypatch):
    given = {}
    monkeypatch.setattr(generate, "PartialState", lambda **options: given.update(options))
    generate._processes({"device": "cpu"})
    assert given["cpu"] and given["timeout"].days >= 1


# -- doctor --------------------------------------------------------------------------------------------------------


def test_doctor_finds_this_machine_fit(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for name in ("Python", "torch", "Device", "Memory", "Disk", "Shipped model", "JupyterLab"):
        assert re.search(rf"^OK    {name}: ", said, re.MULTILINE), said
    assert re.search(r"draws a \d+x\d+ picture in \d+\.\d seconds", said)
    assert "NOTE  Hub: switched off by HF_HUB_OFFLINE" in said  # the tests run offline


def test_doctor_fails_on_a_broken_model_and_says_the_cure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "model_path", lambda: tmp_path)
    monkeypatch.setattr(doctor, "hub", lambda: ())
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "FAIL  Shipped model: " in said
    assert "Cure: install sdlearn again." in said
    assert said.endswith("cure what says FAIL.\n")


def test_doctor_tells_a_working_model_from_one_that_draws_something_else(monkeypatch, random_folder):
    monkeypatch.setattr(checkpoints, "model_path", lambda: random_folder)
    (finding,) = doctor.shipped_model()
    assert not finding.ok
    assert "not what was asked for" in finding.message


@pytest.mark.parametrize("name", ["nope", "sd-1.4", "owner/nothing"])
def test_doctor_looks_for_the_model_that_the_lessons_load(monkeypatch, random_folder, name):
    monkeypatch.setenv("SDLEARN_MODEL", name)
    (finding,) = doctor.chosen_model()
    assert not finding.ok and finding.essential
    assert name in finding.message and "SDLEARN_MODEL" in finding.cure
    monkeypatch.setenv("SDLEARN_MODEL", str(random_folder))
    (finding,) = doctor.chosen_model()
    assert finding.ok
    monkeypatch.delenv("SDLEARN_MODEL")
    assert not list(doctor.chosen_model())


def test_doctor_does_not_promise_lessons_without_their_model(monkeypatch, capsys):
    monkeypatch.setenv("SDLEARN_MODEL", "nope")
    for check in ("packages", "device", "memory", "disk", "shipped_model", "jupyter", "hub"):
        monkeypatch.setattr(doctor, check, lambda: ())
    assert main(["doctor"]) == 1
    assert "lessons run here" not in capsys.readouterr().out


def test_doctor_names_old_and_absent_packages(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda _: ["torch>=99", "no-such-package>=1", "nbmake>=1; extra == 'test'"])
    old, absent = doctor.packages()
    assert (old.ok, absent.ok) == (False, False)
    assert old.cure.endswith("pip install 'torch>=99'")
    assert absent.message == "not installed"


def test_doctor_notices_little_memory_and_a_full_disk(monkeypatch):
    class Little:
        available, total, free = 1e8, 8e9, 1e9

    monkeypatch.setattr(doctor.psutil, "virtual_memory", Little)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Little)
    (memory,), (disk,) = doctor.memory(), doctor.disk()
    assert not memory.ok and memory.essential
    assert not disk.ok and not disk.essential
    assert "HF_HOME" in disk.cure


def test_doctor_says_when_the_hub_cannot_be_reached(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    (finding,) = doctor.hub()
    assert not finding.ok and not finding.essential
    assert "lessons run without" in finding.cure


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """`sdlearn doctor --class` on a machine whose model, kernel and browser are as the test says."""
    monkeypatch.chdir(tmp_path)

    def prepare(seconds=1.25, browser="firefox", memory=8e9) -> int:
        class Machine:
            available = total = memory

        def get():
            if browser is None:
                raise doctor.webbrowser.Error("could not locate runnable browser")
            return type("Browser", (), {"name": browser})()

        drawn = doctor.Finding("Shipped model", True, "draws", seconds=seconds)
        monkeypatch.setattr(doctor, "shipped_model", lambda: [drawn])
        monkeypatch.setattr(doctor, "kernel", lambda: [])
        monkeypatch.setattr(doctor.psutil, "virtual_memory", Machine)
        monkeypatch.setattr(doctor.webbrowser, "get", get)
        return main(["doctor", "--class"])

    return prepare


def test_before_a_class_one_screen_one_word_and_a_file(prepared, tmp_path, capsys):
    assert prepared() == 0
    said = capsys.readouterr().out
    lines = said.replace(str(tmp_path), "").splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 120
    for name in ("Python", "Packages", "Memory", "Disk", "Shipped model", "JupyterLab", "Port", "Browser"):
        assert re.search(rf"^OK    {name}: ", said, re.MULTILINE), name
    (file,) = tmp_path.iterdir()
    report = json.loads(file.read_text())
    assert report["code"] in said and str(file) in said
    assert re.fullmatch(r"READY-[0-9a-f]{6}", report["code"])
    assert {f["name"]: f["seconds"] for f in report["findings"]}["Shipped model"] == 1.25
    assert set(report) == {"code", "sdlearn", "python", "system", "cores", "memory", "findings"}


def test_before_a_class_this_machine_draws_and_starts_a_kernel(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.webbrowser, "get", lambda: type("Browser", (), {"name": "firefox"})())
    assert main(["doctor", "--class"]) == 0
    (file,) = tmp_path.iterdir()
    times = {f["name"]: f["seconds"] for f in json.loads(file.read_text())["findings"]}
    assert times["Shipped model"] > 0 and times["Notebook"] > 0


def test_the_file_for_the_teacher_says_nothing_of_its_owner(prepared, tmp_path, monkeypatch):
    home = Path.home()
    secret = doctor.Finding("SDLEARN_MODEL", False, f"There is no model in {home / 'ann'}", f"look in {home}.")
    monkeypatch.setattr(doctor, "chosen_model", lambda: [secret])
    assert prepared() == 1
    (file,) = tmp_path.iterdir()
    text = file.read_text()
    assert f"There is no model in {Path('~') / 'ann'}" in text and str(home) not in text
    assert socket.gethostname() not in text and str(tmp_path) not in text


def test_before_a_class_what_is_missing_says_so(prepared, tmp_path, capsys):
    for missing in ({"browser": None}, {"browser": "w3m"}, {"memory": 1e9}):
        assert prepared(**missing) == 1
        said = capsys.readouterr().out
        assert re.search(r"^NOT-READY-[0-9a-f]{6}$", said, re.MULTILINE) and said.count("FAIL") == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_the_kernel_of_a_notebook_is_this_pythons_and_a_port_is_heard(monkeypatch):
    (kernel,) = doctor.kernel()
    assert kernel.ok and 0 < kernel.seconds < 90
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        monkeypatch.setattr(doctor, "PORT", other.getsockname()[1])
        (port,) = doctor.port()
    assert port.ok and "1 from " in port.message

    def refused(*_, **__):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(doctor.socket, "create_connection", refused)
    (port,) = doctor.port()
    assert not port.ok and port.essential and "firewall" in port.cure


def test_a_class_in_one_table(prepared, tmp_path, monkeypatch, capsys):
    sent = tmp_path / "sent"
    (sent / "group b").mkdir(parents=True)
    for name, machine in {
        "ann.json": {}, "ben.json": {"seconds": 31.0}, "group b/cem.json": {"browser": None}, "eve.json": {}
    }.items():  # fmt: skip
        prepared(**machine)
        (file,) = tmp_path.glob("*.json")
        file.rename(sent / name)
    (sent / "eve.json").write_text((sent / "eve.json").read_text().replace("1.25", "0.25"))
    (sent / "fay.json").write_text('{"code": "READY-123456"}')
    (sent / "gus.json").write_text("torn")
    capsys.readouterr()
    assert main(["doctor", "--class-summary", str(sent)]) == 0
    said = capsys.readouterr().out
    with (sent / "class.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert {name: row["ready"] for name, row in rows.items()} == {
        "ann.json": "yes", "ben.json": "yes", "group b/cem.json": "no", "eve.json": "changed by hand",
        "fay.json": "cannot be read", "gus.json": "cannot be read",
    }  # fmt: skip
    assert rows["ann.json"]["picture"] == "1.2" and rows["group b/cem.json"]["said"] == "Browser"
    assert "2 of 6 are ready. A picture takes 1.2 s (median)." in said
    assert "Slow: ben.json (31 s)." in said
    assert re.search(r"^Browser: group b/cem.json. Cure: install Firefox", said, re.MULTILINE)
    assert main(["doctor", "--class-summary", str(tmp_path / "nobody")]) == 1
    assert "no file of `sdlearn doctor --class`" in capsys.readouterr().err


# -- train ---------------------------------------------------------------------------------------------------------


def test_train_without_the_training_package_says_so(monkeypatch, capsys):
    from sdlearn.tools import cli

    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "data"])
    assert stopped.value.code == 2
    assert "install the whole package" in capsys.readouterr().err
