"""SAM: without an ascent its base; with one, flatter minima."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import optim
from experiments._evidence import _optim
from experiments._evidence._common import Check, Claim, distance, estimate, gate

EPOCHS, RATE, RHO = 5, 0.1, 0.05


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `optim.sam`."""
    task = _optim.fashion()

    def measure(params):
        """How much the loss over all rows rises at the end of an ascent of length rho, and accuracy."""
        value, grad = jax.value_and_grad(task.loss)(params)
        up = optax.tree.add_scale(params, RHO / optax.tree.norm(grad), grad)
        return task.loss(up) - value, task.accuracy(params)

    def measured(tx):
        run = jax.jit(jax.vmap(lambda key: measure(_optim.train(task, tx, key, EPOCHS)[0])))
        return [np.asarray(x, np.float64) for x in run(_optim.keys(seeds))]

    base = measured(optax.sgd(RATE))
    ours = measured(optim.sam(optax.sgd(RATE), RHO))
    where = f"Fashion-MNIST (10,000 rows), MLP, SGD with learning rate {RATE:g}, {EPOCHS} epochs, rho={RHO:g}"
    return [
        gate("rho=0 is the base, bitwise (largest difference of a parameter)", _without_ascent(), most=0),
        gate("one step against the equations in numpy (largest difference)", _by_hand(), most=1e-6),
        estimate(
            f"{where}: sharpness (rise of the training loss along the gradient, at rho), percent below the base's "
            f"(base {base[0].mean():.4f}, sam {ours[0].mean():.4f})",
            100 * (1 - ours[0] / base[0]),
            least=0,
        ),
        estimate(
            f"the same: points of test accuracy above the base's (base {base[1].mean():.1f}, sam {ours[1].mean():.1f})",
            ours[1] - base[1],
            least=0,
        ),
    ]


def _without_ascent() -> float:
    task = _optim.fashion((32,))
    ends = [
        jax.jit(lambda key, tx=tx: _optim.train(task, tx, key, 1)[0])(jax.random.key(0))
        for tx in (optax.adam(1e-3), optim.sam(optax.adam(1e-3), 0.0))
    ]
    return distance(*ends)


def _by_hand() -> float:
    """Of the loss x'Ax / 2 the gradient is Ax."""
    rng = np.random.default_rng(0)
    matrix, x = rng.normal(size=(5, 5)), rng.normal(size=5)
    matrix = matrix + matrix.T
    slope = matrix @ x
    expected = -RATE * matrix @ (x + RHO * slope / np.sqrt(np.sum(slope**2)))
    tx, start = optim.sam(optax.sgd(RATE), RHO), np.float32(x)
    grad_fn = jax.grad(lambda p: p @ np.float32(matrix) @ p / 2)
    ours, _ = tx.update(grad_fn(start), tx.init(start), start, grad_fn=grad_fn)
    return distance(ours, expected)


CHECK = Check(
    "ctrain_jax.optim.sam",
    "Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, 2020, arXiv 2010.01412",
    claims,
)
