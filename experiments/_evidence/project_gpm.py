"""project_gpm: nothing that acts on protected inputs, after Adam as after SGD; before Adam not."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import optim
from experiments._evidence._common import Check, Claim, estimate, gate

ROWS, COLUMNS, RANK, STEPS = 50, 20, 15, 100


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `optim.project_gpm`."""
    after = [_inside(optax.chain(optax.adamw(1e-2), optim.project_gpm()), seed) for seed in seeds]
    before = [_inside(optax.chain(optim.project_gpm(), optax.adamw(1e-2)), seed) for seed in seeds]
    return [
        gate("behind SGD with momentum and in front of it are the same (largest difference)", _commutes(), most=1e-5),
        gate(
            f"behind AdamW, {STEPS} steps: share of the change that lies in the protected subspace",
            max(after),
            most=1e-5,
        ),
        estimate(
            "in front of AdamW: the same share in percent, which is why it goes behind",
            100 * np.asarray(before),
            least=1,
        ),
    ]


def _run(tx: optax.GradientTransformation, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The change of a kernel in a regression, and the basis."""
    rng = np.random.default_rng(seed)
    basis = jnp.float32(np.linalg.qr(rng.normal(size=(ROWS, RANK)))[0])
    inputs, outputs = jnp.float32(rng.normal(size=(200, ROWS))), jnp.float32(rng.normal(size=(200, COLUMNS)))
    start = jnp.float32(rng.normal(size=(ROWS, COLUMNS)))

    def step(carry, _):
        kernel, state = carry
        grad = jax.grad(lambda w: jnp.square(inputs @ w - outputs).mean())(kernel)
        updates, state = tx.update(grad, state, kernel, bases=basis)
        return (kernel + updates, state), None

    (end, _), _ = jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), None, length=STEPS))(start)
    return np.float64(end) - np.float64(start), np.float64(basis)


def _inside(tx: optax.GradientTransformation, seed: int) -> float:
    change, basis = _run(tx, seed)
    return float(np.linalg.norm(basis.T @ change) / np.linalg.norm(change))


def _commutes() -> float:
    sgd = optax.sgd(0.1, momentum=0.9)
    ends = [_run(optax.chain(*pair), 0)[0] for pair in ((sgd, optim.project_gpm()), (optim.project_gpm(), sgd))]
    return float(np.max(np.abs(ends[0] - ends[1])))


CHECK = Check(
    "ctrain_jax.optim.project_gpm",
    "Saha, Garg and Roy, Gradient Projection Memory for Continual Learning, ICLR 2021, arXiv 2103.09762",
    claims,
)
