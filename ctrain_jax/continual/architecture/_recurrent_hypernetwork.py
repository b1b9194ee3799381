"""A recurrent hypernetwork: each piece of a network is written by a memory of those before it.

Chandra et al., "Continual Learning with Dependency Preserving Hypernetworks", WACV 2023, arXiv 2209.07712. No code of
the authors was found, and of the paper the abstract was read: an LSTM goes over pieces of the network, and
"regularisation and network growth techniques" are added to what holds a hypernetwork in von Oswald et al., ICLR 2020,
arXiv 1906.00695 (chrhenning/hypercl was opened). What these are here, a penalty on the states and units whose outgoing
weights start at 0, is ours. So is that pieces are cut in the order of parameters' names, whatever the layer, and that
what is generated starts with the spread that the network is drawn with. The penalty looks at the hypernetwork as it is,
the code by default at where a step of the task's own loss would take it.
"""

import math
from numbers import Integral

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ctrain_jax.continual.architecture._hypernet import Hypernet, hypernetwork, spreads
from ctrain_jax.core import Method
from ctrain_jax.ops import check_non_negative, check_size


def recurrent_hypernetwork(
    num_tasks: int,
    *,
    beta: float = 0.01,
    states: float | None = None,
    hidden: int = 32,
    chunk: int = 2000,
    dim: int = 32,
    grow: int = 0,
) -> Method:
    r"""Write the network of a task piece by piece with an LSTM, and keep what was written for earlier tasks.

    .. math:: (h_k, c_k) = \mathrm{LSTM}([e_t, z_k], \; h_{k-1}, c_{k-1}), \qquad
              \theta_t = \mu + \sigma \odot [W h_1 + b, \; W h_2 + b, \; \ldots]

    with an embedding :math:`e` of the task, :math:`z` of the piece, and one last layer for all pieces: for a large
    network, fewer parameters than it has. :math:`\mu` is the value that all entries of a bias or a scale of a
    normalisation are drawn with, and 0 elsewhere; :math:`\sigma`, fixed, gives each array the spread that it is drawn
    with.

    While a task is learned, those learned before, :math:`K`, are held by

    .. math:: \frac{1}{|K|} \sum_{j \in K} \Big( \beta \, \|\theta_j - \theta_j^*\|_2^2
              + \beta' \sum_k \|h_{j,k} - h_{j,k}^*\|_2^2 \Big)

    with starred values as they were when the experience began. An experience starts with a new state of the optimizer,
    and with `grow` more units: until then they stand still, and nothing reads them. Statistics of BatchNorm are kept
    for each task. One task serves a batch: see `supsup`.

    Args:
      num_tasks: tasks; they are numbered from 0.
      beta: strength of the penalty on networks; the row of the code of von Oswald et al. for Split-MNIST has 0.01.
      states: beta', strength of the penalty on states; None for none.
      hidden: units of the LSTM in the first experience.
      chunk: entries in a piece.
      dim: length of the embeddings, of tasks and of pieces. Only the task itself moves that of a task.
      grow: units that each experience after the first adds.

    Returns:
      The method. It needs the task of a row in tests as well: `streams.task_incremental`,
      `streams.permuted(..., task_known=True)`. Parameters are `embeddings`, `pieces`, `lstm` (gates: input, forget,
      cell, output) and `head`.

    Raises:
      ValueError: a size below 1, a negative `grow` or strength; when a learner is made, more experiences than tasks.

    Example:
      >>> recurrent_hypernetwork(5).needs
      ('task', 'boundaries')
    """
    for name, value in (("num_tasks", num_tasks), ("hidden", hidden), ("chunk", chunk), ("dim", dim)):
        check_size(name, value)
    check_non_negative("beta", beta)
    check_non_negative("states", 0.0 if states is None else states)
    if isinstance(grow, bool) or not isinstance(grow, Integral) or grow < 0:
        raise ValueError(f"grow expects a whole number of at least 0, got {grow!r}.")
    # Of each unit: the experience that it lives from.
    age = np.repeat(np.arange(num_tasks), [hidden] + [grow] * (num_tasks - 1))
    units = len(age)

    def make(rng, start):
        pieces = math.ceil(sum(leaf.size for leaf in jax.tree.leaves(start)) / chunk)
        rng_task, rng_piece, rng_given, rng_kept, rng_head = jax.random.split(rng, 5)
        kept = jax.vmap(lambda key: jax.nn.initializers.orthogonal()(key, (units, units)))(
            jax.random.split(rng_kept, 4)
        )
        read = age[:, None] <= age  # of the units of a row by those of a column
        head = jax.random.normal(rng_head, (units, chunk)) / math.sqrt(hidden)
        params = {
            "embeddings": jax.random.normal(rng_task, (num_tasks, dim)),
            "pieces": jax.random.normal(rng_piece, (pieces, dim)),
            "lstm": {
                "given": jax.random.normal(rng_given, (2 * dim, 4, units)) / math.sqrt(2 * dim),
                "kept": jnp.where(read[:, None], kept.swapaxes(0, 1), 0),
                "bias": jnp.zeros((4, units)),
            },
            "head": {"kernel": jnp.where(age[:, None] == 0, head, 0), "bias": jnp.zeros(chunk)},
        }
        centre, spread = spreads(start)
        written = jax.vmap(lambda task: write(params, remember(params, task)))(jnp.arange(num_tasks))
        size = jnp.sqrt(jnp.mean(jnp.square(written)))
        return params, {"centre": centre, "scale": jax.tree.map(lambda leaf: leaf / size, spread)}

    def remember(params, task):
        lstm, places = params["lstm"], len(params["pieces"])
        own = jnp.broadcast_to(params["embeddings"][task], (places, dim))
        given = jnp.tensordot(jnp.concatenate([own, params["pieces"]], 1), lstm["given"], 1) + lstm["bias"]

        def step(carry, gates):
            h, c = carry
            into, forget, cell, out = gates + jnp.tensordot(h, lstm["kept"], 1)
            c = jax.nn.sigmoid(forget) * c + jax.nn.sigmoid(into) * jnp.tanh(cell)
            h = jax.nn.sigmoid(out) * jnp.tanh(c)
            return (h, c), h

        return jax.lax.scan(step, (jnp.zeros(units), jnp.zeros(units)), given)[1]

    def write(params, remembered):
        return (remembered @ params["head"]["kernel"] + params["head"]["bias"]).reshape(-1)

    def network(params, fixed, remembered):
        flat, unravel = ravel_pytree(fixed["centre"])
        written = unravel(write(params, remembered)[: flat.size])
        return jax.tree.map(lambda mu, sigma, x: mu + sigma * x, fixed["centre"], fixed["scale"], written)

    def generate(params, fixed, task):
        return network(params, fixed, remember(params, task))

    def keep(params, fixed, task, index):
        remembered = remember(params, task)
        found = {"network": network(params, fixed, remembered)}
        return found if states is None else found | {"states": jnp.where(age <= index, remembered, 0)}

    def moves(updates, ctx):
        lives = jnp.asarray(age) <= ctx.experience.index
        return jax.tree.map(lambda _: True, updates) | {
            "lstm": {"given": lives, "kept": lives & lives[:, None, None], "bias": lives},
            "head": {"kernel": lives[:, None], "bias": True},
        }

    strengths = {"network": beta} | ({} if states is None else {"states": states})
    return hypernetwork(
        "recurrent_hypernetwork", num_tasks, strengths, Hypernet(make, generate), keep=keep, moves=moves
    )
