"""Power-law rehearsal: frequencies in closed form, and what a tenth of old rows keeps of eight pixel orders."""

from collections.abc import Sequence

import numpy as np
import optax

from ctrain_jax import core, models, streams
from experiments._evidence._common import Check, Claim, estimate, final, gate, means, runs

DRAWS, NUM = 100_000, 8


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `streams.power_law`."""
    whole = streams.permuted(streams.fashion_mnist(), NUM)
    arrivals = {"none": whole, "power_law": streams.power_law(whole), "uniform": streams.power_law(whole, exponent=0.0)}
    results = {name: runs(_learner(stream), seeds) for name, stream in arrivals.items()}
    ends = {name: final(result) for name, result in results.items()}
    first = {name: 100 * np.asarray(result.accuracy)[:, -1, 0] for name, result in results.items()}
    where = f"Fashion-MNIST (10,000 rows) in {NUM} pixel orders, MLP of 100 units, a tenth of rows that come back"
    return [
        gate(
            f"{DRAWS:,} draws among {NUM - 1} earlier experiences: distance to (T - i)^-1 / Z in standard errors "
            "(largest)",
            _distance(1.0),
            most=3,
        ),
        gate("the same with exponent 0, to 1 / T", _distance(0.0), most=3),
        estimate(
            f"{where}: points of final accuracy above none ({means(**ends)})",
            ends["power_law"] - ends["none"],
            least=10,
        ),
        estimate("the same: points below as many that come back evenly", ends["uniform"] - ends["power_law"], most=3),
        estimate(
            f"the same: points on the first order at the end, above none ({means(**first)})",
            first["power_law"] - first["none"],
            least=0,
        ),
    ]


def _learner(stream: core.Stream) -> core.Learner:
    model = core.from_linen(models.MLP(10, hidden=(100,)))
    return core.make_learner(model, core.identity(), optax.adam(1e-3), stream, batch_size=128, epochs=5)


def _distance(exponent: float) -> float:
    """How far frequencies are from the law, in standard errors."""
    rows = 100
    source = streams.arrays(np.zeros((rows, 4)), np.arange(rows) % 2, np.zeros((2, 4)), [0, 1])
    stream = streams.power_law(streams.permuted(source, NUM), exponent=exponent, fraction=DRAWS / rows)
    drawn = np.asarray(stream.experiences["train"].origin)[-1, rows:]
    weights = np.array([1 / (NUM - 1 - i) ** exponent for i in range(NUM - 1)])
    share = weights / weights.sum()
    often = np.bincount(drawn, minlength=NUM - 1)
    return np.max(np.abs(often - DRAWS * share) / np.sqrt(DRAWS * share * (1 - share)))


CHECK = Check(
    "ctrain_jax.streams.power_law",
    "Gandhi, Shah, Marupudi and Varma, Natural Mitigation of Catastrophic Interference: Continual Learning in "
    "Power-Law Learning Environments, 2024, arXiv 2401.10393",
    claims,
    rows=(27,),
)
