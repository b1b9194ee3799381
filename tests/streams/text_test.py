"""Text: windows that ask for each token once, and byte pairs against a slow walk over a list."""

import random

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrain_jax import core, streams

ENGLISH = "the cat sat on the mat and the other cat sat on the other mat " * 12
GERMAN = "die Katze saß auf der Matte und die andere Katze saß auf der anderen " * 12
DOCUMENTS = {"en": ENGLISH, "de": GERMAN}


def _joined(rows):
    """The text of windows that begin with the last token of the one before."""
    assert (rows[1:, 0] == rows[:-1, -1]).all()
    return np.concatenate([rows[0], rows[1:, 1:].ravel()])


def test_windows_are_the_text():
    source = streams.text(DOCUMENTS, length=20, test_fraction=0.25)
    for label, document in enumerate((ENGLISH.encode(), GERMAN.encode())):
        until = len(document) - round(0.25 * len(document))
        for part, content in ((source.train, document[:until]), (source.test, document[until:])):
            tokens = _joined(part["inputs"][part["labels"] == label])
            assert bytes(tokens.tolist()) == content[: len(tokens)] and len(content) - len(tokens) < 19
    assert source.num_classes == 2 and source.train["inputs"].dtype == np.int32
    assert (np.diff(source.train["labels"]) >= 0).all()


def test_every_token_is_asked_for_once():
    source = streams.text({"a": ENGLISH}, length=9)
    rows = source.train["inputs"]
    logits = jnp.zeros((*rows.shape, 256))
    asked = np.zeros(rows.max() + 1)
    np.add.at(asked, rows[:, 1:], 1)  # what next_token reads
    content = ENGLISH.encode()[: 1 + 8 * len(rows)]
    np.testing.assert_array_equal(asked, np.bincount(np.frombuffer(content[1:], np.uint8), minlength=len(asked)))
    batch = {"inputs": jnp.asarray(rows)}
    np.testing.assert_allclose(core.next_token().loss(core.Outputs(logits), batch), np.log(256), rtol=1e-5)


def test_documents_arrive_one_after_the_other():
    source = streams.text(DOCUMENTS, length=20)
    for scenario in (streams.domain_incremental, streams.class_incremental):
        stream = scenario(source, 2)
        for t in range(2):
            rows = stream.experiences["train"].rows[t][: stream.experiences["train"].size[t]]
            assert (source.train["labels"][rows] == t).all()
    assert not streams.domain_incremental(source, 2).source.train["labels"].any()  # nobody is told which


def test_a_path_bytes_and_a_str_are_the_same_document(tmp_path):
    (tmp_path / "de.txt").write_bytes(GERMAN.encode())
    made = [streams.text({"x": d}, length=30).train["inputs"] for d in (GERMAN, GERMAN.encode(), tmp_path / "de.txt")]
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])


def _naive_pairs(words, number):
    """Byte pairs one by one, over lists."""
    words = [list(w) for w in words]
    pairs = []
    for new in range(256, 256 + number):
        counts = {}
        for word in words:
            for pair in zip(word, word[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts.values(), default=0)
        if best < 2:
            break
        pair = min(p for p in counts if counts[p] == best)
        pairs.append(pair)
        words = [_naive_merge(word, pair, new) for word in words]
    return pairs


def _naive_merge(word, pair, new):
    out = []
    while word:
        if tuple(word[:2]) == pair:
            out, word = [*out, new], word[2:]
        else:
            out, word = [*out, word[0]], word[1:]
    return out


def _naive_encode(word, pairs):
    """The pair of the lowest rank that is there, until none is."""
    word = list(word)
    while ranks := [pairs.index(p) for p in zip(word, word[1:], strict=False) if p in pairs]:
        word = _naive_merge(word, pairs[min(ranks)], 256 + min(ranks))
    return word


def test_byte_pairs_are_those_of_a_slow_walk():
    rng = random.Random(0)
    content = " ".join("".join(rng.choices("aaab", k=rng.randint(1, 9))) for _ in range(150))
    tokenizer = streams.byte_pairs({"x": content}, 276, test_fraction=0.0)
    words = [w if i == 0 else b" " + w for i, w in enumerate(content.encode().split(b" "))]
    pairs = _naive_pairs(words, 20)
    assert tokenizer.size == 256 + len(pairs) == 276
    expected = [t for w in words for t in _naive_encode(w, pairs)]
    tokens = tokenizer.encode(content.encode())
    assert tokens.dtype == np.int32 and tokens.tolist() == expected
    assert 2 * len(expected) < len(content)


PAIRS = streams.byte_pairs(DOCUMENTS, 300)


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=40) | st.text(max_size=30).map(str.encode) | st.text("tha e\n\t", max_size=40).map(str.encode)
)
def test_any_bytes_come_back(content):
    tokens = PAIRS.encode(content)
    assert PAIRS.decode(tokens) == content
    assert len(tokens) <= len(content) and (tokens < PAIRS.size).all()


def test_no_pair_crosses_a_space_and_padding_is_nothing():
    meanings = [PAIRS.decode([t]) for t in range(256, PAIRS.size)]
    assert all(b" " not in m[1:] for m in meanings) and b" the" in meanings
    assert PAIRS.decode([*PAIRS.encode(b"the cat"), -1, -1]) == b"the cat"


def test_pairs_stop_where_nothing_repeats_and_are_learned_from_the_training_text():
    assert streams.byte_pairs({"x": "abcdefg"}, 300).size == 256
    learned = streams.byte_pairs({"x": "ab" * 90 + "yz" * 10}, 300, test_fraction=0.1)
    assert not any(b"y" in learned.decode([t]) for t in range(256, learned.size))
    source = streams.text(DOCUMENTS, length=8, tokenizer=PAIRS)
    assert source.train["inputs"].max() >= 256
    rows = source.train["inputs"][source.train["labels"] == 0]
    content = PAIRS.decode(_joined(rows))
    assert ENGLISH.encode().startswith(content) and len(content) > 0.85 * len(ENGLISH)


def test_python_brings_code_and_prose():
    source = streams.text()
    code, prose = (source.train["inputs"][source.train["labels"] == k] for k in (0, 1))
    assert min(len(code), len(prose)) > 1500 and source.num_classes == 2
    code, prose = (bytes(_joined(rows).tolist()).decode(errors="replace") for rows in (code, prose))
    per_thousand = [1000 * text.count("self.") / len(text) for text in (code, prose)]
    assert per_thousand[0] > 5 * per_thousand[1]


@pytest.mark.parametrize(
    ("build", "kind", "says"),
    [
        (lambda: streams.text({}), ValueError, "text: documents must have a text for each name, got none"),
        (lambda: streams.text({"a": 3}), TypeError, "must be a str, bytes or a pathlib.Path, got int for 'a'"),
        (lambda: streams.text(DOCUMENTS, length=1), ValueError, "length must be at least 2, got 1"),
        (
            lambda: streams.text(DOCUMENTS, length=100),
            ValueError,
            "of 100 tokens .* got none of 'en' in 'test'",
        ),
        (lambda: streams.text(DOCUMENTS, test_fraction=2), ValueError, "test_fraction must be between 0 and 1"),
        (lambda: streams.byte_pairs(DOCUMENTS, 256), ValueError, "size must lie between 257 and 4096, got 256"),
        (lambda: streams.byte_pairs({}, 300), ValueError, "byte_pairs: documents must have"),
    ],
)
def test_refuses_in_one_sentence(build, kind, says):
    with pytest.raises(kind, match=says) as caught:
        build()
    assert "\n" not in str(caught.value)
