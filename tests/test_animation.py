"""Animations to send: as long and as large as asked, for ever round, and still where the frames stand still."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from sdlearn.show.animation import save_animation


def noise(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def gradient(shift):
    """Smooth colours, as a drawn picture has them, that wander with `shift`."""
    y, x = np.indices((64, 64))
    return Image.fromarray(np.stack([4 * x, 4 * y, (2 * (x + y) + 16 * shift) % 256], axis=-1).astype(np.uint8))


FRAMES = [noise(16, k) for k in range(5)]


def read(path):
    """The frames as RGB, the hundredths of a second that all of them last, and how often the file says to go round."""
    with Image.open(path) as file:
        frames = [(frame.convert("RGB"), frame.info["duration"]) for frame in ImageSequence.Iterator(file)]
        return [frame for frame, _ in frames], round(sum(time for _, time in frames) / 10), file.info["loop"]


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
@pytest.mark.parametrize(("fps", "hundredths"), [(10, 50), (8, 60), (50, 10)])
def test_it_goes_round_for_ever_at_the_pace_that_was_asked_for(tmp_path, kind, fps, hundredths):
    path = save_animation(FRAMES, tmp_path / f"loop.{kind}", fps=fps)
    frames, lasts, rounds = read(path)
    assert len(frames) == 5 and lasts == hundredths and rounds == 0
    assert [path] == list(tmp_path.iterdir()), "nothing else is left behind"


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_a_frame_that_stands_still_takes_its_time(tmp_path, kind):
    still = [FRAMES[0], FRAMES[0], FRAMES[1], FRAMES[1], FRAMES[1]]
    assert read(save_animation(still, tmp_path / f"still.{kind}", fps=10))[1] == 50


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_png_and_webp_keep_every_pixel_enlarged_by_a_whole_factor(tmp_path, kind):
    frames, _, _ = read(save_animation(FRAMES, tmp_path / f"exact.{kind}", scale=3))
    for frame, given in zip(frames, FRAMES, strict=True):
        assert frame.tobytes() == given.resize((48, 48), Image.Resampling.NEAREST).tobytes()


def test_a_gif_is_near_its_frames_and_small_ones_are_enlarged(tmp_path):
    given = [gradient(k) for k in range(8)]
    frames, _, _ = read(save_animation(given, tmp_path / "near.gif"))
    for frame, original in zip(frames, given, strict=True):
        assert frame.size == (256, 256)
        apart = np.asarray(frame)[::4, ::4].astype(float) - np.asarray(original)
        assert np.sqrt((apart**2).mean()) < 16  # of 255, with 256 colours for eight frames
    assert read(save_animation([noise(300, k) for k in range(2)], tmp_path / "large.gif"))[0][0].size == (300, 300)


def test_what_stands_still_does_not_flicker_in_a_gif(tmp_path):
    given = [gradient(k) for k in range(8)]
    for frame in given:
        frame.paste(gradient(0).crop((0, 0, 64, 32)), (0, 0))  # the same upper half in all
    halves = {frame.crop((0, 0, 256, 128)).tobytes() for frame in read(save_animation(given, tmp_path / "a.gif"))[0]}
    assert len(halves) == 1


@pytest.mark.parametrize(
    ("frames", "name", "options", "words"),
    [
        (FRAMES, "a.mp4", {}, "a.mp4 does not end in .gif, .png, .webp"),
        (FRAMES[:1], "a.gif", {}, "at least two frames, not 1"),
        ([], "a.gif", {}, "at least two frames, not 0"),
        ([noise(8), noise(16)], "a.gif", {}, "must have one size"),
        (FRAMES, "a.gif", {"fps": 0}, "fps must be"),
        (FRAMES, "a.gif", {"fps": 100}, "fps must be"),
        (FRAMES, "a.gif", {"scale": 0}, "scale must be"),
    ],
)
def test_what_cannot_be_written_is_said_in_a_sentence(tmp_path, frames, name, options, words):
    with pytest.raises(ValueError, match=words) as error:
        save_animation(frames, tmp_path / name, **options)
    assert "\n" not in str(error.value) and not any(tmp_path.iterdir())


def test_without_its_folder_or_without_room_nothing_is_left_behind(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no folder"):
        save_animation(FRAMES, tmp_path / "none" / "a.gif")

    def full(self, path, **options):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_animation(FRAMES, tmp_path / "a.gif")
    assert not any(tmp_path.iterdir())
