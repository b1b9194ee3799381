"""diffGrad: half of Adam's step, or all of it, where its friction is known; as fast as Adam on an MLP."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import optim
from experiments._evidence import _optim
from experiments._evidence._common import Check, Claim, estimate, gate

RATE = 1e-3


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `optim.diffgrad`."""
    task = _optim.fashion()

    def losses(tx):
        end = jax.jit(jax.vmap(lambda key: task.loss(_optim.train(task, tx, key, 1)[0])))
        return np.asarray(end(_optim.keys(seeds)), np.float64)

    ours, adams = losses(optim.diffgrad(RATE)), losses(optax.adam(RATE))
    where = f"Fashion-MNIST (10,000 rows), MLP, 1 epoch, both with learning rate {RATE:g}"
    return [
        gate(
            "constant gradients: from the second step on half of Adam's step (largest relative difference)",
            _constant(),
            most=1e-6,
        ),
        gate("gradients of 50 and -50 in turn: share of Adam's step (smallest)", _alternating(), least=0.999),
        gate(
            "float64: 20 steps of random gradients against the equations in numpy (largest difference, at learning "
            "rate 1)",
            _by_hand(),
            most=1e-6,
        ),
        estimate(
            f"{where}: final training loss differs from Adam's by (percent of Adam's; diffgrad {ours.mean():.3f}, adam "
            f"{adams.mean():.3f})",
            100 * np.abs(ours / adams - 1),
            most=20,
        ),
    ]


def _updates(tx: optax.GradientTransformation, grads: np.ndarray) -> np.ndarray:
    def step(state, grad):
        update, state = tx.update(grad, state)
        return state, update

    grads = jnp.asarray(grads)
    return np.asarray(jax.jit(lambda g: jax.lax.scan(step, tx.init(g[0]), g)[1])(grads), np.float64)


def _constant() -> float:
    grads = np.tile([1e-4, 0.3, 70.0], (20, 1))
    ratio = _updates(optim.scale_by_diffgrad(), grads) / _updates(optax.scale_by_adam(), grads)
    return np.max(np.abs(ratio[1:] / 0.5 - 1))


def _alternating() -> float:
    grads = 50.0 * (-1.0) ** np.arange(20)[:, None]
    return np.min(_updates(optim.scale_by_diffgrad(), grads) / _updates(optax.scale_by_adam(), grads))


def _by_hand() -> float:
    grads = np.random.default_rng(0).normal(size=(20, 4)) * [0.01, 0.3, 1.0, 10.0]
    m, v, last, expected = np.zeros(4), np.zeros(4), np.zeros(4), []
    for t, g in enumerate(grads, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        friction = 1 / (1 + np.exp(-np.abs(last - g)))
        expected.append(-RATE * friction * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8))
        last = g
    with jax.enable_x64(True):
        return np.max(np.abs(_updates(optim.diffgrad(RATE), grads) - expected)) / RATE


CHECK = Check(
    "ctrain_jax.optim.diffgrad",
    "Dubey et al., diffGrad: An Optimization Method for Convolutional Neural Networks, 2019, arXiv 1909.11015",
    claims,
    rows=(254,),
)
