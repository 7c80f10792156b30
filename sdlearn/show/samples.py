"""Pictures to try things on: a photograph, the reader's own or one that is always there, and a test card."""

from __future__ import annotations

from PIL import Image, ImageDraw

from ..pictures import Picture, open_image

BARS = ("#e6e600", "#00c8c8", "#00c800", "#c800c8", "#c80000", "#0000c8")
LETTERS = (  # V, A, E as strokes in a unit square: a font would differ from machine to machine
    [[(0, 0), (0.5, 1), (1, 0)]],
    [[(0, 1), (0.5, 0), (1, 1)], [(0.25, 0.6), (0.75, 0.6)]],
    [[(1, 0), (0, 0), (0, 1), (1, 1)], [(0, 0.5), (0.8, 0.5)]],
)
PORTRAIT = (80, 20, 460, 400)  # left, upper, right, lower: head and shoulders


def photograph(photo: Picture | None = None) -> Image.Image:
    """The whole photograph, upright and in RGB: `photo`, a file or PIL image of any size, or else the portrait of Grace
    Hopper that comes with matplotlib."""
    if photo is not None:
        return open_image(photo)
    from matplotlib.cbook import get_sample_data

    with get_sample_data("grace_hopper.jpg") as file:
        return open_image(Image.open(file)).crop(PORTRAIT)


def test_card(width: int, height: int) -> Image.Image:
    """What an autoencoder finds hard: pure colours, a grey ramp, black bars of 1, 2, 4 and 8 pixels, thin lines."""
    card = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(card)
    third, half, floor = height // 3, height // 2, 3 * height // 4
    for k, colour in enumerate(BARS):
        draw.rectangle((k * width // 6, 0, (k + 1) * width // 6 - 1, third), fill=colour)
    card.paste(Image.linear_gradient("L").rotate(90).resize((width, max(1, height // 6))), (0, third))
    for k, bar in enumerate((1, 2, 4, 8)):
        for x in range(k * width // 4 + bar, (k + 1) * width // 4, 2 * bar):
            draw.rectangle((x, half, x + bar - 1, floor), fill="black")
    low, high = height - height // 16, floor + height // 20
    draw.ellipse((width // 16, high, width // 4, low), outline="black")
    draw.line((width // 3, low, width // 2, high), fill="red")
    for k, strokes in enumerate(LETTERS):
        left, size = width * (5 + k) / 9 + 1, (width / 14, low - high)
        for stroke in strokes:
            draw.line([(left + x * size[0], high + y * size[1]) for x, y in stroke], fill="blue")
    return card


test_card.__test__ = False  # to pytest: nothing to run here
