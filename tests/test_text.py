"""From words to what the UNet reads, compared with transformers, with diffusers' prompt encoding, and by hand."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import pipeline, relative_error

from sdlearn import text

LONG = "a fox and an owl and a cat and a dog and " * 8  # 88 tokens
EMPHASIS = st.text(alphabet="ab ,.:1()[]\\", max_size=30)


def states(sd, ids):
    return sd.text_encoder(ids).last_hidden_state


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_tokens_carry_their_marks_and_pieces(emoji):
    found = text.tokens(emoji, "a red apple")
    assert found.pieces == ("<|startoftext|>", "a</w>", "red</w>", "apple</w>", "<|endoftext|>")
    assert found.ids[0] == 49406 and found.ids[-1] == 49407
    assert found.lost == ""


@given(prompt=st.text(max_size=60))
def test_ids_are_what_the_tokenizer_pads_to(emoji, prompt):
    options = {"padding": "max_length", "truncation": True, "max_length": 77, "return_tensors": "pt"}
    theirs = emoji.tokenizer(prompt, **options).input_ids
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(text.token_ids(emoji, prompt), theirs)


def test_words_beyond_75_tokens_are_lost_with_a_warning_that_names_them(emoji):
    with pytest.warns(UserWarning, match="drops the rest of this prompt: 'on a pink moon'. Shorten it, or pass long_p"):
        ids = text.token_ids(emoji, "fox " * 75 + "on a pink moon")
    assert ids.shape == (1, 77) and ids[0, -1] == 49407
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text.token_ids(emoji, "fox " * 75)


def test_the_warning_names_the_words_and_not_the_emphasis_marks(emoji):
    with pytest.warns(UserWarning, match="drops the rest of this prompt: 'on a pink moon'"):
        text.encode_prompt(emoji, "(fox:1.2) " * 75 + "(on a pink moon:1.5)", prompt_weights=True)


# -- states ------------------------------------------------------------------------------------------------------------


def test_states_are_the_pipelines(emoji):
    prompts, negative = ["a red apple", "a comic fox"], "blurry"
    cond, uncond = pipeline("", emoji, "ddim").encode_prompt(prompts, "cpu", 1, True, [negative] * 2)
    assert relative_error(text.encode_prompt(emoji, prompts), cond) < 1e-6
    assert relative_error(text.encode_prompt(emoji, [negative] * 2), uncond) < 1e-6


def test_token_rows_plus_position_rows_are_what_the_encoder_reads(emoji):
    ids = text.token_ids(emoji, ["a red apple", "an owl"])
    embeddings = text.token_embeddings(emoji, ids) + text.position_embeddings(emoji)
    assert embeddings.shape == (2, 77, 128)
    assert torch.equal(text.encode_embeddings(emoji, embeddings), states(emoji, ids))
    # The hook that makes this possible is gone afterwards.
    assert torch.equal(states(emoji, ids), text.encode_ids(emoji, ids))


@pytest.mark.parametrize("model", ["emoji", "random_sd"])
def test_queries_keys_and_values_make_the_first_layers_output(model, request):
    sd = request.getfixturevalue(model)
    ids = text.token_ids(sd, "a red apple")
    embeddings = text.token_embeddings(sd, ids)[0] + text.position_embeddings(sd)
    parts = text.queries_keys_values(sd, embeddings)
    heads = sd.text_encoder.config.num_attention_heads
    assert [part.shape for part in parts] == [(heads, 77, embeddings.shape[1] // heads)] * 3
    mixed = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True).transpose(0, 1).flatten(1)
    layer = getattr(sd.text_encoder, "text_model", sd.text_encoder).encoder.layers[0]
    after = embeddings + layer.self_attn.out_proj(mixed)
    after = after + layer.mlp(layer.layer_norm2(after))
    theirs = sd.text_encoder(ids, output_hidden_states=True).hidden_states[1][0]
    assert relative_error(after, theirs) < 1e-5


def test_surgery_in_one_thread_leaves_every_other_thread_alone(emoji):
    ids = text.token_ids(emoji, "a red apple")
    expected = text.encode_ids(emoji, ids)
    rows = text.token_embeddings(emoji, ids) + text.position_embeddings(emoji)
    stop = threading.Event()

    def operate():
        while not stop.is_set():
            text.encode_embeddings(emoji, torch.zeros_like(rows))

    surgeon = threading.Thread(target=operate)
    surgeon.start()
    try:
        assert all(torch.equal(text.encode_ids(emoji, ids), expected) for _ in range(40))
        assert torch.equal(text.encode_embeddings(emoji, rows), expected)
    finally:
        stop.set()
        surgeon.join()


def test_attention_is_causal_so_a_changed_token_changes_only_what_follows(emoji):
    ids = text.token_ids(emoji, "a red apple")
    embeddings = text.token_embeddings(emoji, ids) + text.position_embeddings(emoji)
    before = text.encode_embeddings(emoji, embeddings)
    embeddings[:, 3] = embeddings[:, 3].flip(-1)
    after = text.encode_embeddings(emoji, embeddings)
    assert torch.allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert not torch.allclose(before[:, 3:], after[:, 3:], atol=1e-2)


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_clip_skip_is_an_earlier_hidden_state_through_the_final_norm(emoji, skip):
    ids = text.token_ids(emoji, "a red apple")
    output = emoji.text_encoder(ids, output_hidden_states=True)
    transformer = getattr(emoji.text_encoder, "text_model", emoji.text_encoder)
    by_hand = transformer.final_layer_norm(output.hidden_states[-(skip + 1)])
    assert torch.equal(text.encode_prompt(emoji, "a red apple", clip_skip=skip), by_hand)
    assert torch.equal(text.encode_prompt(emoji, "a red apple"), output.last_hidden_state)


@pytest.mark.parametrize("skip", [-1, 3, 1.5])
def test_a_clip_skip_beyond_the_layers_is_an_error(emoji, skip):
    with pytest.raises(ValueError, match="clip_skip must be a whole number from 0 to 2"):
        text.encode_prompt(emoji, "a red apple", clip_skip=skip)


def test_padding_is_masked_only_for_checkpoints_that_ask_for_it(emoji, monkeypatch):
    ids = text.token_ids(emoji, "a red apple")
    plain = text.encode_ids(emoji, ids)
    monkeypatch.setattr(emoji.text_encoder.config, "use_attention_mask", True, raising=False)
    mask = torch.tensor([[1] * 5 + [0] * 72])  # up to and including the first end mark
    theirs = emoji.text_encoder(ids, attention_mask=mask).last_hidden_state
    assert torch.equal(text.encode_ids(emoji, ids), theirs)
    assert not torch.allclose(plain[:, 5:], theirs[:, 5:], atol=1e-3)


# -- long prompts ------------------------------------------------------------------------------------------------------


def test_a_long_prompt_is_its_chunks_of_75_tokens_in_a_row(emoji):
    ids = emoji.tokenizer(LONG, add_special_tokens=False).input_ids
    assert 75 < len(ids) <= 150
    rows = [[49406, *part, *[49407] * (76 - len(part))] for part in (ids[:75], ids[75:])]
    by_hand = [states(emoji, torch.tensor([row])) for row in rows]
    found = text.encode_prompt(emoji, LONG, long_prompt=True)
    assert found.shape == (1, 154, 128)
    assert relative_error(found, torch.cat(by_hand, dim=1)) < 1e-6


def test_short_prompts_beside_a_long_one_are_filled_up_with_the_empty_prompt(emoji):
    both = text.encode_prompt(emoji, ["a fox", LONG], long_prompt=True)
    assert both.shape == (2, 154, 128)
    assert relative_error(both[:1, :77], text.encode_prompt(emoji, "a fox")) < 1e-6
    assert relative_error(both[:1, 77:], text.encode_prompt(emoji, "")) < 1e-6


def test_a_short_prompt_is_the_same_with_or_without_the_options(emoji):
    plain = text.encode_prompt(emoji, ["a fox", "an owl"])
    for options in ({"long_prompt": True}, {"prompt_weights": True}, {"long_prompt": True, "prompt_weights": True}):
        assert relative_error(text.encode_prompt(emoji, ["a fox", "an owl"], **options), plain) < 1e-6


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "spans"),
    [
        ("a fox", [("a fox", 1.0)]),
        ("a (red:1.3) fox", [("a ", 1.0), ("red", 1.3), (" fox", 1.0)]),
        ("a (red) fox", [("a ", 1.0), ("red", 1.1), (" fox", 1.0)]),
        ("a [red] fox", [("a ", 1.0), ("red", 1 / 1.1), (" fox", 1.0)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(a (red:2) fox:0.5)", [("a ", 0.5), ("red", 1.0), (" fox", 0.5)]),
        ("(red:-0.5)", [("red", -0.5)]),
        ("(red: .5 )", [("red", 0.5)]),
        (r"a \(red\) fox", [("a (red) fox", 1.0)]),
        (r"back\\slash", [(r"back\slash", 1.0)]),
        ("ratio 3:2", [("ratio 3:2", 1.0)]),
        ("", [("", 1.0)]),
        ("()", [("", 1.0)]),
    ],
)
def test_emphasis_is_read_as_spans_of_text_and_weight(prompt, spans):
    found = text.parse_weights(prompt)
    assert [t for t, _ in found] == [t for t, _ in spans]
    assert [w for _, w in found] == pytest.approx([w for _, w in spans])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a (red fox", r"opens a '\(' that it never closes; write \\\( for the sign itself"),
        ("a red) fox", r"closes a '\)' that it never opened; write \\\) for the sign itself"),
        ("a [red) fox", r"closes a '\)' that it never opened"),
        ("at 3:30)", r"closes a '\)' that it never opened"),
    ],
)
def test_brackets_that_do_not_pair_are_an_error(emoji, prompt, message):
    with pytest.raises(ValueError, match=message):
        text.encode_prompt(emoji, prompt, prompt_weights=True)


@given(EMPHASIS)
def test_any_prompt_is_parsed_or_refused_in_a_sentence(prompt):
    try:
        spans = text.parse_weights(prompt)
    except ValueError as error:
        assert "for the sign itself" in str(error)
    else:
        assert spans and all(isinstance(t, str) and isinstance(w, float) for t, w in spans)


@given(st.text(alphabet="ab ,.:1", max_size=30))
def test_a_prompt_without_brackets_is_itself(prompt):
    assert text.parse_weights(prompt) == [(prompt, 1.0)]


@given(st.text(alphabet="ab ()[]\\", max_size=20))
def test_a_backslash_keeps_every_mark(prompt):
    escaped = "".join("\\" + c if c in "()[]\\" else c for c in prompt)
    assert text.parse_weights(escaped) == [(prompt, 1.0)]


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.3])
def test_a_weight_moves_a_words_states_along_the_line_from_the_empty_prompt(emoji, weight):
    plain, empty = text.encode_prompt(emoji, "a red apple"), text.encode_prompt(emoji, "")
    found = text.encode_prompt(emoji, f"a (red:{weight}) apple", prompt_weights=True)
    expected = plain.clone()
    expected[:, 2] = empty[:, 2] + weight * (plain[:, 2] - empty[:, 2])
    assert relative_error(found, expected) < 1e-6


def test_brackets_are_words_unless_asked_for(emoji):
    plain = text.encode_prompt(emoji, "a (red:1.3) apple")
    assert len(text.tokens(emoji, "a (red:1.3) apple").ids) > 6
    assert not torch.allclose(plain, text.encode_prompt(emoji, "a red apple"), atol=1e-2)


def test_weights_reach_words_in_every_chunk(emoji):
    late = LONG + "(moon:1.5)"
    weighted = text.encode_prompt(emoji, late, long_prompt=True, prompt_weights=True)
    plain = text.encode_prompt(emoji, LONG + "moon", long_prompt=True)
    changed = (weighted - plain).abs().amax(dim=-1)[0] > 1e-6
    assert changed.sum() == 1 and changed[77:].any()


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_no_prompt_at_all_is_an_error(emoji):
    with pytest.raises(ValueError, match="The list of prompt is empty; give at least one"):
        text.encode_prompt(emoji, [])
    with pytest.raises(TypeError, match="A prompt is a string, not int: 5"):
        text.encode_prompt(emoji, ["a fox", 5])
