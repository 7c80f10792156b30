"""The page on conventions keeps up with the package, and the package with its plan."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import resolve_name
from pathlib import Path

import pytest
from PIL import Image
from reference import PAGE, STEPS, TOLERANCE, scheduler, table
from toy import ORDER_STEPS, order

import sdlearn
from sdlearn import text
from sdlearn.pictures import open_image
from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import NoiseSchedule


@pytest.mark.parametrize("function", [sdlearn.text_to_image, sdlearn.image_to_image, sdlearn.inpaint, sdlearn.denoise])
def test_every_option_is_explained(function):
    explained = set(re.findall(r"`(\w+)", " ".join(row[0] for row in table("Options")[1:])))
    assert set(inspect.signature(function).parameters) - {"sd", "options"} <= explained


def test_every_sampler_stands_beside_its_scheduler_and_spacing():
    rows = {name: row for row in table("Samplers")[1:] for name in re.findall(r"`([^`]+)`", row[0])}
    assert set(rows) == set(SAMPLERS)
    for name, sampler in SAMPLERS.items():
        assert sampler.scheduler in rows[name][1] or (sampler.karras and "use_karras_sigmas=True" in rows[name][1])
        assert rows[name][2] == sampler.spacing
        if sampler.karras:
            assert rows[name][3] == "as without" and sampler.solver is SAMPLERS[name.removesuffix("_karras")].solver
        elif sampler.eta:
            assert rows[name][3] == "stochastic"
        else:
            assert float(rows[name][3]) == pytest.approx(order(name), abs=0.01)


def test_every_symbol_is_an_attribute():
    named = re.findall(r"`schedule\.(\w+)`", PAGE)
    assert len(named) >= 6
    assert all(hasattr(NoiseSchedule(), name) for name in named)


def test_the_measured_errors_are_within_the_bound_but_for_the_two_that_are_explained():
    above = {
        (name.strip("`"), column)
        for name, *errors in table("Equal to diffusers, measured")[1:]
        for column, error in enumerate(errors)
        if float(error) > 1e-5
    }
    assert above == {("plms", 3), ("lms", 3)}
    assert float(re.search(r"diffusers' own PLMS moves\s+by ([\de-]+)", PAGE)[1]) > TOLERANCE


def diffusers_timesteps(spacing: str, n: int) -> list[int]:
    theirs = scheduler("ddim", NoiseSchedule(), spacing)
    theirs.set_timesteps(n)
    return theirs.timesteps.tolist()


def is_white(value: int) -> bool:
    return open_image(Image.new("I", (1, 1), value)).getpixel((0, 0)) == (255, 255, 255)


def stated(sd) -> Iterator[str]:
    """What the page says in numbers, with the numbers as they come out of the code."""
    schedule, trailing = NoiseSchedule(), diffusers_timesteps("trailing", 61)
    total, first = schedule.num_train_timesteps, schedule.timesteps(1)[0]
    last, *_, lowest = schedule.timesteps(5, "linspace")
    too_many = [n for n in range(2, 104) if len(diffusers_timesteps("trailing", n)) > n]
    whites = [white for white in (255, 1023, 4095, 16383, 65535) if is_white(white)]
    tokens = sd.tokenizer.model_max_length
    (_, more), (_, less) = text.parse_weights("(a)") + text.parse_weights("[a]")
    zero_snr = scheduler("euler", replace(schedule, rescale_betas_zero_snr=True), "trailing")

    yield f"A training timestep, 0 to {last}:"
    yield "white is the first of {}, {} and {} that".format(*whites)
    yield f"`leading` $i \\lfloor T/n \\rfloor + {schedule.timesteps(50)[-1]}$"
    yield f"`trailing` $T - iT/n - {total - schedule.timesteps(5, 'trailing')[0]}$"
    yield f"`linspace` $n$ from $T - {total - last}$ to {lowest}"
    yield f"(B, {tokens} n, D)"
    yield f"Chunks of {tokens - 2} tokens"
    yield f"`(word)` = {more:g}, `[word]` = 1/{1 / less:g}:"
    yield "between {} and {} steps".format(*ORDER_STEPS)
    yield f"The bound in the tests is {TOLERANCE:.0e}.".replace("e-0", "e-")
    yield "at {}, {}, {}, {} and {} steps, with".format(*STEPS)
    yield f"where $n$ does not divide {total} | steps to $t - \\lfloor {total}/n \\rfloor$"
    yield f"some $n$ ({too_many[0]}, {too_many[1]}, ...) | one timestep too many, at {trailing[-1]} |"
    yield f"one step | starts at timestep {diffusers_timesteps('linspace', 1)[0]} | starts at {last} |"
    yield rf"$\sigma = {zero_snr.sigmas.max():g}$"
    yield f"| Steps {total} with `leading` spacing | IndexError | an error that names the cure | The offset of {first} "
    yield f"| One step with `leading` spacing | asks at timestep {first} "


def test_the_numbers_on_the_page_are_those_of_the_code(emoji):
    lines = " ".join(PAGE.split())
    assert [said for said in stated(emoji) if said not in lines] == []


# -- the rooms ---------------------------------------------------------------------------------------------------------

PACKAGE = Path(sdlearn.__file__).parent
GROUND_FLOOR = ("schedule", "samplers", "guidance", "model", "pictures", "text", "autoencoder", "batch", "sampling",
                "attention", "fast")  # fmt: skip
UPSTAIRS = {  # what each may import besides the ground floor and itself
    "hub": (),
    "show": ("hub",),
    "exercises": ("hub", "show", "training"),
    "training": ("hub", "show"),
    "tools": ("hub", "show", "exercises", "training"),
}
KNOWS_NOTHING_OF = {
    "model": ("samplers", "guidance"),
    "pictures": GROUND_FLOOR,
    "text": ("samplers", "guidance", "pictures"),
    "autoencoder": ("samplers", "guidance", "text"),
    "attention": ("samplers", "guidance", "model", "pictures", "autoencoder", "batch", "sampling"),
    "fast": ("samplers", "guidance", "pictures", "text", "autoencoder", "batch", "sampling"),
}
FOR_UPSTAIRS = {"IPython", "huggingface_hub", "ipywidgets", "matplotlib"}


def rooms() -> list[str]:
    modules = [file.stem for file in PACKAGE.glob("[a-z]*.py")]
    return sorted([*modules, *(file.parent.name for file in PACKAGE.glob("[a-z]*/__init__.py"))])


def imports(file: Path) -> Iterator[str]:
    """Every module that a file names, wherever in the file: "sdlearn.text", "numpy"."""
    package = ".".join(["sdlearn", *file.relative_to(PACKAGE).parent.parts])
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield from ([f"{module}.{alias.name}" for alias in node.names] if module == "sdlearn" else [module])


def neighbours(room: str) -> set[str]:
    """The rooms that a room imports; "sdlearn" itself where it goes through the front door."""
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").is_file() else (PACKAGE / room).rglob("*.py")
    named = {".".join(name.split(".")[:2]) for file in files for name in imports(file)}
    return {name.removeprefix("sdlearn.") for name in named if name.split(".")[0] == "sdlearn"} - {room}


def test_every_room_stands_in_the_plan_and_they_are_few():
    assert set(rooms()) <= {*GROUND_FLOOR, *UPSTAIRS}
    assert len(set(rooms()) - {"training"}) <= 16


@pytest.mark.parametrize("room", [room for room in GROUND_FLOOR if room in rooms()])
def test_data_flows_forward(room):
    assert neighbours(room) <= set(GROUND_FLOOR[: GROUND_FLOOR.index(room)]) - set(KNOWS_NOTHING_OF.get(room, ()))
    assert not {name.split(".")[0] for name in imports(PACKAGE / f"{room}.py")} & FOR_UPSTAIRS


@pytest.mark.parametrize("room", [room for room in UPSTAIRS if room in rooms()])
def test_upstairs_stands_on_the_ground_floor(room):
    front_door = {"sdlearn"} if room in ("tools", "training", "exercises") else set()
    version = {"__version__"} if room == "tools" else set()
    assert neighbours(room) <= {*GROUND_FLOOR, *UPSTAIRS[room], *front_door, *version}


@pytest.mark.parametrize("room", rooms())
def test_every_room_is_named_where_newcomers_look(room):
    guide = (PACKAGE.parent / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.search(rf"\b{room}\b", sdlearn.__doc__) and f"`{room}`" in guide


def test_editors_are_told_the_names_that_are_loaded_when_used():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {}
    for node in block.body:
        for alias in node.names:
            module = node.module or ""
            submodule = ".".join(filter(None, [module, alias.name]))
            told[alias.name] = submodule if submodule in sdlearn._ROOMS.values() else module
    assert told == sdlearn._HOME | sdlearn._ROOMS
    assert set(sdlearn.__all__) == {"__version__", *sdlearn._HOME}
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("name", [*sdlearn._HOME, *sdlearn._ROOMS])
def test_every_public_name_is_there(name):
    assert name in dir(sdlearn)
    assert inspect.ismodule(getattr(sdlearn, name)) == (name in sdlearn._ROOMS)
