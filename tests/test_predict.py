"""Questions before a figure: every answer opens what is said of it, in any page and whatever it holds."""

import re
from html.parser import HTMLParser

import pytest

import sdlearn

QUESTION = "Twice the steps: what happens to the picture?"
ANSWERS = {
    "It changes completely": "The start is the same.",
    "It hardly changes": "The way is the same.",
    "No": "Look.",
}
EVIL = '</summary></details><script>alert("1")</script><!-- & <b> \' \u2028'


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text in each, by tag and class."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" not in self.open:
            self.texts.append((self.open[-1], text))

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_every_answer_opens_its_verdict_and_what_is_said_of_it():
    asked = sdlearn.predict(QUESTION, ANSWERS, right="It hardly changes")
    words = " ".join(text for _, text in Page(asked.html).texts)
    no, yes = "✗ Not quite.", "✓ Yes."
    expected = ["Predict, then run", QUESTION]
    for (answer, said), verdict in zip(ANSWERS.items(), (no, yes, no), strict=True):
        expected += [answer, verdict, said]
    assert re.sub(r"\s+", " ", words) == " ".join(expected)
    assert [a["class"] for a in Page(asked.html).named("details")] == ["wrong", "right", "wrong"]
    assert all("open" not in a for a in Page(asked.html).named("details")), "nothing is given away"


def test_answers_of_one_question_are_a_group_of_their_own():
    pages = [Page(sdlearn.predict(QUESTION, ANSWERS, right="No").html) for _ in range(3)]
    names = [{a["name"] for a in page.named("details")} for page in pages]
    assert all(len(name) == 1 for name in names) and len(set.union(*names)) == 3
    for page in pages:
        [box], ids = page.named("div"), [a["id"] for _, a in page.elements if "id" in a]
        assert [box["aria-labelledby"]] == ids and box["role"] == "group"


def test_texts_cannot_leave_their_place():
    plain = Page(sdlearn.predict(QUESTION, ANSWERS, right="No").html)
    asked = sdlearn.predict(EVIL, {EVIL: EVIL, "b": EVIL, "c": EVIL}, right=EVIL)
    page = Page(asked.html)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert "".join(text for _, text in page.texts).count(EVIL) == 5


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("set `eta=1` *now*", "set <code>eta=1</code> <em>now</em>"),
        ("`a*b*c < 1`", "<code>a*b*c &lt; 1</code>"),
        ("2 * 3 * 4, a*b*c, **kwargs", "2 * 3 * 4, a*b*c, **kwargs"),
        ("a ` alone and a * alone", "a ` alone and a * alone"),
    ],
)
def test_code_and_emphasis_are_marked_and_nothing_else(text, html):
    assert f">{html}</p>" in sdlearn.predict(text, ANSWERS, right="No").html


def test_it_needs_no_script_no_network_and_no_kernel():
    html = sdlearn.predict(QUESTION, ANSWERS, right="No").html
    assert not re.search(r"<script|https?:|url\(|@import| on\w+=", html)


def test_the_style_keeps_to_the_question():
    [style] = re.findall(r"<style>(.*?)</style>", sdlearn.predict(QUESTION, ANSWERS, right="No").html, re.DOTALL)
    selectors = re.findall(r"(?:^|})([^{}]+){", re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL))
    assert len(selectors) > 10 and all(".sdlearn-predict" in selector for selector in selectors)


def test_a_terminal_shows_the_choice_and_not_the_answer():
    asked = sdlearn.predict(QUESTION, ANSWERS, right="No")
    assert repr(asked).splitlines() == [f"Predict, then run: {QUESTION}", *(f"  ( ) {answer}" for answer in ANSWERS)]
    assert asked.right == "No" and asked.answers == ANSWERS and asked._repr_html_() == asked.html


BAD = {
    "'Maybe' is none of the answers: 'It changes": lambda: sdlearn.predict(QUESTION, ANSWERS, right="Maybe"),
    "two to five answers, not 1": lambda: sdlearn.predict(QUESTION, {"a": "b"}, right="a"),
    "two to five answers, not 6": lambda: sdlearn.predict(QUESTION, dict.fromkeys("abcdef", ""), right="a"),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input_gets_one_clear_sentence(said):
    with pytest.raises(ValueError, match=said) as error:
        BAD[said]()
    assert "\n" not in str(error.value)
