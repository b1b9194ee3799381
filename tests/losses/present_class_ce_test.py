"""Cross-entropy over present classes: numpy over a few columns, no gradient elsewhere, the plain one over all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax.losses import present_class_ce

LOGITS = jax.random.normal(jax.random.key(0), (4, 6)) * 3
LABELS = jnp.array([1, 4, 1, 2])


def by_hand(logits, labels, columns):
    z = np.asarray(logits, np.float64)
    return [np.log(np.exp(row[columns]).sum()) - row[y] for row, y in zip(z, labels, strict=True)]


def test_the_softmax_is_over_the_classes_of_the_batch_and_others_have_no_gradient():
    losses, back = jax.vjp(lambda z: present_class_ce(z, LABELS), LOGITS)
    np.testing.assert_allclose(losses, by_hand(LOGITS, LABELS, [1, 2, 4]), rtol=1e-5, atol=1e-6)
    (grad,) = back(jnp.ones(4))
    assert (grad[:, jnp.array([0, 3, 5])] == 0).all() and (grad[:, jnp.array([1, 2, 4])] != 0).all()


def test_given_classes_of_a_batch_or_of_each_row_with_the_label_always_among_them():
    given = jnp.arange(6) < 3
    for row, loss in enumerate(present_class_ce(LOGITS, LABELS, given)):
        columns = sorted({0, 1, 2, int(LABELS[row])})
        wanted = by_hand(LOGITS[row : row + 1], LABELS[row : row + 1], columns)[0]
        np.testing.assert_allclose(loss, wanted, rtol=1e-5, atol=1e-6)
    each = jnp.eye(4, 6, dtype=bool)
    np.testing.assert_allclose(
        present_class_ce(LOGITS, LABELS, each),
        [by_hand(LOGITS[i : i + 1], LABELS[i : i + 1], sorted({i, int(LABELS[i])}))[0] for i in range(4)],
        rtol=1e-4,
        atol=1e-6,
    )


def test_all_classes_make_it_the_plain_one():
    plain = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS)
    np.testing.assert_allclose(present_class_ce(LOGITS, LABELS, jnp.ones(6, bool)), plain, rtol=1e-6)
