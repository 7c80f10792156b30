"""What is done to every page of the site when it is built, so that it is light, and says what it is.

pictures    beside the page, as WebP, each fetched when it comes into sight; those of a scrubber when it is used
formulas    set beforehand by KaTeX, which is fetched with npm at a pinned version and never committed; where it
            cannot be had, MathJax sets them in the browser, which takes 2 MB more
head        a title that says nothing twice, a description, a picture for those who link here
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import subprocess
import tarfile
import tempfile
import warnings
from pathlib import Path

from PIL import Image

from ..training.artwork import Package, fetch

KATEX = Package(
    "katex", "0.16.22", "KaTeX, Khan Academy and contributors, MIT",
    "XCHRdUw4lf3SKBaJe4EvgqIuWwkPSo9XoeO8GjQW94Bp7TWv9hNhzZjZ+OH9yf1UmLygb7DIT5GSFQiyt16zYg==",
)  # fmt: skip
CACHE = Path("~/.cache/sdlearn/site").expanduser()
ADDRESS = "https://sdlearn.github.io/sdlearn/"  # where the site is at home, for those who link to it
COVER = "landing/cover.jpg"

SMALL = 2_000  # characters: pictures that are smaller stay in the page
LARGE = 150_000  # bytes: a picture that is larger without loss is stored with some, if that halves it
QUALITY = 88
FIRST = 2  # pictures of a page that are fetched at once, since they are seen at once
DESCRIBED = 160  # characters

_URI = re.compile(r"data:image/(?:png|webp|jpeg);base64,([A-Za-z0-9+/=\n]+)")
_IMAGE = re.compile(r'<img\b[^>]*?\bsrc="([^"]+)"[^>]*>')
_FORMULA = re.compile(r'(<(span|div) class="math notranslate nohighlight"[^>]*>)(.*?)(</\2>)', re.DOTALL)
_MATHJAX = re.compile(r"\s*<script>window\.MathJax = .*?</script>|\s*<script [^>]*/mathjax/[^>]*></script>")
_NODE = """
const {renderToString} = require(process.argv[1]);
const set = ([text, displayMode]) => renderToString(text, {displayMode, throwOnError: true, strict: "ignore"});
console.log(JSON.stringify(JSON.parse(require("fs").readFileSync(0)).map(set)));
"""


def finish(site: Path) -> None:
    """Do it to every page of the folder."""
    pages = {path: lighten(path.read_text(encoding="utf-8")) for path in sorted(site.glob("*.html"))}
    pages = with_formulas(pages, site)
    kept: dict[str, tuple[str, int, int]] = {}
    for path, page in pages.items():
        page = with_head(with_pictures(page, site, kept), path.stem, site)
        path.write_text(page, encoding="utf-8", newline="\n")
    for file in (site / "_static" / "scripts").glob("fontawesome.js*"):
        file.unlink()


def lighten(page: str) -> str:
    """The HTML of a page without what it loads for nothing or what reads badly."""
    page = re.sub(r"\s*<script [^>]*/fontawesome\.js[^>]*></script>", "", page)  # 1.5 MB; all icons are a web font's
    if 'class="math' not in page:
        page = _MATHJAX.sub("", page)
    page = page.replace('<summary aria-label="Toggle hidden content">', "<summary>")  # its own words say more
    return re.sub(r'<span class="c1"># ?@title .*?</span>\n', "", page)  # which is for Colab's eyes


# -- formulas ----------------------------------------------------------------------------------------------------------


def with_formulas(pages: dict[Path, str], site: Path) -> dict[Path, str]:
    """The pages with their formulas set, and what that takes laid into the site."""
    wanted = {tex(*match.group(2, 3)) for page in pages.values() for match in _FORMULA.finditer(page)}
    if not wanted:
        return pages
    try:
        formulas = katex(sorted(wanted), site / "_static" / "katex")
    except OSError as error:
        warnings.warn(f"The site's formulas are set in the browser: {error}", stacklevel=2)
        return pages
    sheet = '<link rel="stylesheet" href="_static/katex/katex.min.css" />\n</head>'

    def put(page: str) -> str:
        page, count = _FORMULA.subn(lambda m: f"{m[1]}{formulas[tex(m[2], m[3])]}{m[4]}", page)
        return _MATHJAX.sub("", page).replace("</head>", sheet, 1) if count else page

    return {path: put(page) for path, page in pages.items()}


def tex(tag: str, source: str) -> tuple[str, bool]:
    """What stands between a formula's marks, and whether it stands alone."""
    source = html.unescape(source).strip()
    return re.sub(r"^\\[(\[]|\\[)\]]$", "", source).strip(), tag == "div"


def katex(formulas: list[tuple[str, bool]], folder: Path) -> dict[tuple[str, bool], str]:
    """The HTML of each formula; the style and the fonts that it takes are laid into the folder.

    Raises OSError where KaTeX or Node.js cannot be had, and ValueError for a formula that cannot be set.
    """
    with tarfile.open(fetch(KATEX, CACHE)) as package, tempfile.TemporaryDirectory() as place:
        read = {member.name.removeprefix("package/dist/"): member for member in package.getmembers()}
        script = Path(place) / "katex.js"
        script.write_bytes(package.extractfile(read["katex.min.js"]).read())
        try:
            done = subprocess.run(
                ["node", "-e", _NODE, str(script)], input=json.dumps(formulas), capture_output=True, encoding="utf-8"
            )
        except FileNotFoundError as error:
            raise OSError("KaTeX runs on Node.js, which is not installed.") from error
        if done.returncode:
            raise ValueError(f"A formula cannot be set: {re.search('ParseError.*|$', done.stderr)[0] or done.stderr}")
        (folder / "fonts").mkdir(parents=True, exist_ok=True)
        for name in ("katex.min.css", *(name for name in read if re.fullmatch(r"fonts/.*\.woff2", name))):
            (folder / name).write_bytes(package.extractfile(read[name]).read())
    set_ = (re.sub(r"<annotation.*?</annotation>", "", one, flags=re.DOTALL) for one in json.loads(done.stdout))
    return dict(zip(formulas, set_, strict=True))


# -- pictures ----------------------------------------------------------------------------------------------------------


def with_pictures(page: str, site: Path, kept: dict[str, tuple[str, int, int]]) -> str:
    """The page with the pictures that it carries laid beside it. kept: where each is, by its data."""
    seen = 0

    def late(match: re.Match) -> str:
        nonlocal seen
        tag, source = match[0], match[1]
        if "loading=" in tag or not (source.startswith("data:image/") or source.startswith("_images/")):
            return tag
        path, width, height = outside(source, site, kept)
        tag = tag.replace(source, path)
        if not re.search(r'\bheight="', tag):  # room for what is yet to come
            given = re.search(r'\bwidth="(\d+)"', tag)
            high = round(height * int(given[1]) / width) if given else height
            size = "" if given else f' width="{width}"'
            tag = tag.replace("<img", f'<img{size} height="{high}"', 1)
            if 'style="' not in tag:
                tag = tag.replace("<img", '<img style="max-width:100%;height:auto"', 1)
            elif "height:" not in tag:
                tag = tag.replace('style="', 'style="height:auto;', 1)
        seen += 1
        return tag if seen <= FIRST else tag.replace("<img", '<img loading="lazy"', 1)

    page = _IMAGE.sub(late, page)
    return _URI.sub(lambda match: outside(match[0], site, kept)[0], page)


def outside(source: str, site: Path, kept: dict[str, tuple[str, int, int]]) -> tuple[str, int, int]:
    """Where the picture of a data URI or a file of the site is now, with its width and height."""
    if source not in kept:
        data = base64.b64decode(source.split(",")[1]) if source.startswith("data:") else (site / source).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            size, path = image.size, source
            if len(source) > SMALL or not source.startswith("data:"):
                data, ending = smallest(image, data)
                path = f"_images/{hashlib.sha256(data).hexdigest()[:16]}.{ending}"
                (site / "_images").mkdir(exist_ok=True)
                (site / path).write_bytes(data)
        kept[source] = (path, *size)
    return kept[source]


def smallest(image: Image.Image, data: bytes) -> tuple[bytes, str]:
    """The bytes of the picture and their kind: as they are or as WebP, with loss only where it is large."""
    kept = [(data, image.format.lower())]
    if max(image.size) <= 16383:  # the longest side that WebP knows
        for options in ({"lossless": True, "quality": 60, "method": 3}, {"quality": QUALITY, "method": 4}):
            if not options.get("lossless") and (len(kept[-1][0]) <= LARGE or image.format == "WEBP"):
                break
            file = io.BytesIO()
            image.save(file, "webp", **options)
            kept.append((file.getvalue(), "webp"))
    exact = min(kept[:2], key=lambda one: len(one[0]))
    return kept[2] if len(kept) == 3 and len(kept[2][0]) < len(exact[0]) / 2 else exact


# -- what the page says of itself --------------------------------------------------------------------------------------


def with_head(page: str, name: str, site: Path) -> str:
    """The page with its description and its picture, which others show beside a link, and one title."""
    title = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    if not title:
        return page
    first, *rest = (part.strip() for part in title[1].split("&#8212;"))
    if rest == [first]:
        page = page.replace(title[0], f"<title>{first}</title>", 1)
    own = f"landing/{name}.jpg"
    image = own if (site / own).is_file() else COVER
    kind = "article" if rest != [first] else "website"
    said = {"og:title": first, "og:type": kind, "og:url": f"{ADDRESS}{name}.html"}
    lines = []
    if described := description(page):
        lines.append(f'<meta name="description" content="{described}" />')
        said["og:description"] = described
    if (site / image).is_file():
        said["og:image"] = f"{ADDRESS}{image}"
        lines.append('<meta name="twitter:card" content="summary_large_image" />')
    lines += [f'<meta property="{key}" content="{value}" />' for key, value in said.items()]
    return page.replace("</title>", "</title>\n" + "\n".join(lines), 1)


def description(page: str) -> str:
    """The first paragraph of the article that says something, in words alone, cut after a word."""
    _, _, article = page.partition("<article")
    for paragraph in re.findall(r"<p>(.*?)</p>", article, re.DOTALL):
        seen = re.sub(r"<math.*?</math>", "", paragraph, flags=re.DOTALL)  # what KaTeX writes for the ears
        words = html.unescape(" ".join(re.sub(r"<[^>]+>", "", seen).split()))
        if len(words) >= 40:
            cut = words if len(words) <= DESCRIBED else f"{words[:DESCRIBED].rsplit(' ', 1)[0]} …"
            return html.escape(cut)
    return ""
