"""Notebook 03: what the model reads."""

from __future__ import annotations

import torch

from . import exercise

START, END = "<|startoftext|>", "<|endoftext|>"

# -- numbers -----------------------------------------------------------------------------------------------------------


@exercise(
    minutes=5, difficulty=1, trains="the row of numbers that any prompt becomes",
    hint="A piece that ends a word has </w> behind it. Build the row without padding first; what is still missing is "
    "length - len(row).",
)  # fmt: skip
def number_words(words, vocabulary, padding, length):
    row = [vocabulary[START], *(vocabulary[f"{word}</w>"] for word in words), vocabulary[END]]
    return row + [padding] * (length - len(row))


@number_words.given
def _(sd):
    vocabulary, padding = sd.tokenizer.get_vocab(), sd.tokenizer.pad_token_id
    for sentence in ("a picture of a puppy", "red fox", ""):
        yield sentence.split(), vocabulary, padding, sd.tokenizer.model_max_length


@number_words.mistake(
    "these are pieces from inside of words: the word a is the piece 'a</w>', and 'a' alone is a letter with another "
    "number."
)
def _(words, vocabulary, padding, length):
    row = [vocabulary[START], *(vocabulary[word] for word in words), vocabulary[END]]
    return row + [padding] * (length - len(row))


@number_words.mistake("the start mark is missing: every word stands one place too early.")
def _(words, vocabulary, padding, length):
    row = [*(vocabulary[f"{word}</w>"] for word in words), vocabulary[END]]
    return row + [padding] * (length - len(row))


@number_words.mistake("the row is two too long: the marks count, so the padding fills length - len(words) - 2 places.")
def _(words, vocabulary, padding, length):
    row = [vocabulary[START], *(vocabulary[f"{word}</w>"] for word in words), vocabulary[END]]
    return row + [padding] * (length - len(words))


@number_words.mistake("the padding is missing: the encoder wants `length` numbers, however short the sentence.")
def _(words, vocabulary, padding, length):
    return [vocabulary[START], *(vocabulary[f"{word}</w>"] for word in words), vocabulary[END]]


@number_words.mistake("the row is filled up with zeros: number 0 is a piece of its own, '!'. Fill it with `padding`.")
def _(words, vocabulary, padding, length):
    row = [vocabulary[START], *(vocabulary[f"{word}</w>"] for word in words), vocabulary[END]]
    return row + [0] * (length - len(row))


# -- token rows and position rows --------------------------------------------------------------------------------------


@exercise(
    minutes=3, difficulty=1, trains="what the transformer gets: token row plus position row",
    hint="A table indexed with a tensor of numbers gives the rows of these numbers. The other is in order already.",
)  # fmt: skip
def encoder_input(ids, token_table, position_table):
    return token_table[ids] + position_table


@encoder_input.given
def _():
    chance = torch.Generator().manual_seed(0)
    tokens, positions = torch.randn(9, 4, generator=chance), torch.randn(5, 4, generator=chance)
    yield torch.tensor([3, 0, 2, 0, 4]), tokens, positions
    yield torch.tensor([[8, 1, 5, 1, 7], [8, 6, 7, 7, 7]]), tokens, positions


@encoder_input.mistake("the position rows are forgotten: without them the order of the words is not in the numbers.")
def _(ids, token_table, position_table):
    return token_table[ids]


@encoder_input.mistake(
    "every position row comes one place late: places count from 0, and row 0 belongs to the start mark."
)
def _(ids, token_table, position_table):
    return token_table[ids] + position_table.roll(1, 0)


@encoder_input.mistake("every position row comes one place early: the first token stands at place 0, not at place 1.")
def _(ids, token_table, position_table):
    return token_table[ids] + position_table.roll(-1, 0)


@encoder_input.mistake("the two rows are multiplied: they are added.")
def _(ids, token_table, position_table):
    return token_table[ids] * position_table


@encoder_input.mistake(
    "the position rows are looked up by the token's number: a position row belongs to a place, whatever stands there."
)
def _(ids, token_table, position_table):
    return token_table[ids] + position_table[ids]


# -- attention ---------------------------------------------------------------------------------------------------------


@exercise(
    minutes=6, difficulty=2, trains="attention: scores of queries and keys, and softmax",
    hint="queries @ keys.T holds all dot products: row i belongs to query i. Divide by the root of d, raise e to it, "
    "and divide each row by its sum (or use torch.softmax with the right dim).",
)  # fmt: skip
def attention_weights(queries, keys):
    scores = queries @ keys.T / queries.shape[-1] ** 0.5
    return scores.softmax(dim=-1)


@attention_weights.given
def _():
    chance = torch.Generator().manual_seed(0)
    for n, d in ((4, 9), (3, 2)):
        yield torch.randn(n, d, generator=chance), torch.randn(n, d, generator=chance)


@attention_weights.mistake(
    "the division by the root of d is missing: these weights are too sharp, the more so the longer the vectors are."
)
def _(queries, keys):
    return (queries @ keys.T).softmax(dim=-1)


@attention_weights.mistake("the scores are divided by d: it is the root of d.")
def _(queries, keys):
    return (queries @ keys.T / queries.shape[-1]).softmax(dim=-1)


@attention_weights.mistake(
    "softmax runs over the wrong axis: your columns sum to one. A row that looks has one whole attention to give away, "
    "so each row sums to one (dim=-1)."
)
def _(queries, keys):
    return (queries @ keys.T / queries.shape[-1] ** 0.5).softmax(dim=0)


@attention_weights.mistake("queries and keys are exchanged: row i belongs to the query of row i, so queries @ keys.T.")
def _(queries, keys):
    return (keys @ queries.T / queries.shape[-1] ** 0.5).softmax(dim=-1)


@attention_weights.mistake("these are the scores: softmax, which makes them into shares, is still to come.")
def _(queries, keys):
    return queries @ keys.T / queries.shape[-1] ** 0.5


@attention_weights.mistake("the exponentials are not divided by the sum of their row, so they are no shares yet.")
def _(queries, keys):
    return (queries @ keys.T / queries.shape[-1] ** 0.5).exp()


@exercise(
    minutes=4, difficulty=1, trains="the causal mask: no row looks ahead",
    hint="Row i may look at columns 0 to i. torch.ones(n, n) and its method tril(), the lower triangle, are enough.",
)  # fmt: skip
def may_look(n):
    return torch.ones(n, n).tril().bool()


@may_look.given
def _():
    yield (4,)
    yield (7,)


@may_look.mistake(
    "it is the wrong triangle: your rows see what comes after them and not what came before. Row i may look at columns "
    "0 to i, the lower triangle."
)
def _(n):
    return torch.ones(n, n).triu().bool()


@may_look.mistake(
    "the diagonal is missing: a row may look at itself, too. The first row would have nothing to look at, and softmax "
    "would give nan."
)
def _(n):
    return torch.ones(n, n).tril(-1).bool()


@may_look.mistake(
    "true and false are exchanged: this is true where a row must not look. Some libraries mean that by a mask; here it "
    "is the other way round."
)
def _(n):
    return torch.ones(n, n).triu(1).bool()


@may_look.mistake("this mask hides nothing: every row sees the whole sentence, also what comes after it.")
def _(n):
    return torch.ones(n, n).bool()


@may_look.mistake("every row sees only itself: it may look at all the rows before it, too.")
def _(n):
    return torch.eye(n).bool()


# -- mixing ------------------------------------------------------------------------------------------------------------


@exercise(
    minutes=4, difficulty=1, trains="the way from one word to another, and what must not be mixed",
    hint="The shares of the two add up to one. The places are the same for both, so their rows are added whole.",
)  # fmt: skip
def mix_words(first, second, positions, share):
    return (1 - share) * first + share * second + positions


@mix_words.given
def _():
    chance = torch.Generator().manual_seed(0)
    for share in (0.3, 1.0, -0.5):
        yield *(torch.randn(5, 4, generator=chance) for _ in range(3)), share


@mix_words.mistake("the shares are exchanged: `share` is the second word's, and at 0 the first must be alone.")
def _(first, second, positions, share):
    return share * first + (1 - share) * second + positions


@mix_words.mistake("the position rows are forgotten: the encoder's input is token row plus position row.")
def _(first, second, positions, share):
    return (1 - share) * first + share * second


@mix_words.mistake("the first word keeps its whole strength: its share is 1 - share, or the sum grows.")
def _(first, second, positions, share):
    return first + share * second + positions


@mix_words.mistake("the position rows fade with the first word: they belong to the places and are added whole.")
def _(first, second, positions, share):
    return (1 - share) * (first + positions) + share * second


@mix_words.mistake("the step goes the wrong way: from first towards second is share * (second - first).")
def _(first, second, positions, share):
    return first + share * (first - second) + positions


@mix_words.mistake("the position rows are added twice: once is enough, after the mixing or before it.")
def _(first, second, positions, share):
    return (1 - share) * (first + positions) + share * (second + positions) + positions
