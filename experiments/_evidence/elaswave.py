"""ElasWave: what a step computes is the same whoever computes it, on eight devices of which three go and come back."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import fault, streams
from experiments._evidence._common import Check, Claim, distance, estimate, gate

WORKERS, BATCH, STEPS, GONE, LOST, BACK = 8, 16, 60, (1, 4, 6), 20, 40
WIDTHS = (64, 32, 32, 10)
SPLITS = ((8, 8), (12, 4), (16, 0))


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `fault.elaswave`."""
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={WORKERS}"}
    environment |= {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", __name__, *map(str, seeds)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the run on {WORKERS} devices failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    ours, rank = np.array(found["ours"]), np.array(found["rank"])
    where = f"digits, MLP with dropout, {WORKERS} devices, {len(GONE)} of them gone from step {LOST} to {BACK}"
    return [
        gate(
            f"a batch of {BATCH} split as {', '.join(map(str, SPLITS))}: largest difference of a gradient",
            found["splits"],
            most=1e-6,
        ),
        gate(
            f"{where}: largest difference of {STEPS} losses from those of the uninterrupted run, over {len(seeds)} "
            "seeds",
            ours.max(),
            most=1e-5,
        ),
        gate(
            "the same with noise that belongs to the rank: largest difference of a loss, the least over the seeds",
            rank.max(1).min(),
            least=1e-3,
        ),
        estimate(
            "the same: the mean difference from the step of the loss on, in percent of the loss "
            f"(noise of the sample: {100 * ours[:, LOST:].mean() / found['loss']:.1g})",
            100 * rank[:, LOST:].mean(1) / found["loss"],
            least=1,
        ),
    ]


def loss_sum(params, rows, noise):
    """Cross-entropy of a classifier whose hidden units are left out with a probability of one half."""
    h = rows["x"]
    for layer, kernel in enumerate(params[:-1]):
        h = jax.nn.relu(h @ kernel)
        kept = jax.vmap(lambda key, h=h: jax.random.bernoulli(key, 0.5, h.shape[1:]))(noise(layer))
        h = 2 * h * kept
    return optax.softmax_cross_entropy_with_integer_labels(h @ params[-1], rows["y"]).sum()


def by_rank(params, rows, keys):
    """The noise of the place `rank, count` where a sample is computed, as a generator of each rank gives."""
    start = jax.random.key(99)
    return loss_sum(params, rows, lambda layer: fault.sample_key(start, layer, rows["place"], 0))


def begin(rng):
    """Parameters."""
    draw = jax.nn.initializers.he_normal()
    shapes = list(zip(WIDTHS, WIDTHS[1:], strict=False))
    return [draw(key, shape) for key, shape in zip(jax.random.split(rng, len(shapes)), shapes, strict=True)]


def places(alive):
    """`[steps, BATCH]`: a number of its own for each (step, rank, count)."""
    dealt = []
    for step, row in enumerate(alive):
        ranks = np.repeat(np.flatnonzero(row), [len(x) for x in np.array_split(np.arange(BATCH), row.sum())])
        count = np.concatenate([np.arange(n) for n in np.bincount(ranks)])
        dealt.append((step * WORKERS + ranks) * BATCH + count)
    return jnp.asarray(np.array(dealt), jnp.int32)


def measure(seeds: Sequence[int]) -> dict:
    """Differences between interrupted runs and whole ones, in a process that has eight devices."""
    mesh = jax.make_mesh((WORKERS,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    train = streams.digits().train
    data = {"x": jnp.asarray(train["inputs"].reshape(-1, WIDTHS[0]) / 255, jnp.float32)}
    data |= {"y": jnp.asarray(train["labels"])}
    whole = np.ones((STEPS, WORKERS), bool)
    lost = whole.copy()
    lost[LOST:BACK, GONE] = False

    def runner(loss):
        elastic = fault.elaswave(loss, optax.adam(3e-3), BATCH, workers=mesh)

        def run(key, alive, place):
            def batch(step):
                rows = jax.random.randint(jax.random.fold_in(key, step), (BATCH,), 0, len(data["y"]))
                return {k: v[rows] for k, v in data.items()} | {"place": place[step]}

            return fault.simulate(elastic, elastic.init(key, begin(key)), batch, alive)[1]

        compiled = jax.jit(run)
        return lambda seed, alive: np.asarray(compiled(jax.random.key(seed), jnp.asarray(alive), places(alive)))

    ours, rank = runner(lambda params, rows, keys: loss_sum(params, rows, keys)), runner(by_rank)
    base = [ours(seed, whole) for seed in seeds]
    return {
        "ours": [np.abs(ours(seed, lost) - b).tolist() for seed, b in zip(seeds, base, strict=True)],
        "rank": [np.abs(rank(seed, lost) - rank(seed, whole)).tolist() for seed in seeds],
        "loss": float(np.mean(np.array(base)[:, LOST:])),
        "splits": splits({k: v[:BATCH] for k, v in data.items()}),
    }


def splits(batch) -> float:
    """The largest difference between gradients of splits over two workers."""
    elastic = fault.elaswave(loss_sum, optax.sgd(1.0), BATCH, workers=2)
    state = elastic.init(jax.random.key(0), begin(jax.random.key(1)))
    step = jax.jit(lambda sizes: jax.tree.map(jnp.subtract, state.params, elastic.step(state, batch, sizes)[0].params))
    first, *others = [step(jnp.array(sizes)) for sizes in SPLITS]
    return max(distance(first, other) for other in others)


CHECK = Check(
    "ctrain_jax.fault.elaswave",
    "Kang et al., ElasWave: An Elastic-Native System for Scalable Hybrid-Parallel Training, 2025, arXiv 2510.00606",
    claims,
    (157,),
)

if __name__ == "__main__":
    print(json.dumps(measure([int(seed) for seed in sys.argv[1:]])))
