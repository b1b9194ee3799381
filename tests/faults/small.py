"""A run of two experiences of four steps, with accidents on demand."""

import json

import jax
import jax.numpy as jnp
import optax

from configs.continual import er
from ctrain_jax import continual as methods
from ctrain_jax import core, models
from experiments import _build

STEPS = 4


def config():
    made = er.get_config("runlocal")
    made.scenario.num_experiences, made.steps, made.model.hidden, made.er.size = 2, STEPS, (16,), 20
    return made


def accident(where, at, seed=None, once=False):
    """A method that spoils the parameters, or the loss, when `at` steps are done.

    Of one seed if one is given; `once` only as long as the run has the random numbers that it began with.
    """

    def hit(step, rng):
        begun = jax.random.key_data(rng)
        found = step == at
        if seed is not None:
            found &= begun[-1] == seed
        return found & (begun[0] == 0) if once else found

    def loss(s, params, ctx):
        return (jnp.where(hit(s[0], s[1]), jnp.inf, 0.0) if where == "loss" else 0.0), {}

    def update(s, ts, ctx):
        if where == "params":
            spoiled = jax.tree.map(lambda x: jnp.where(hit(ts.step, ts.rng), jnp.nan, x), ts.params["head"])
            ts = ts._replace(params={**ts.params, "head": spoiled})
        return (ts.step, ts.rng), ts

    return core.Method("accident", init=lambda *_: (jnp.int32(0), jax.random.key(1)), loss=loss, update=update)


def builder(*accidents):
    """In place of `_build.build`, each kind of learner made once."""
    made = {}
    stream = _build.build_stream(config())

    def build(config, mesh=None, stream_=None, skip_nonfinite=False, rules=()):
        if skip_nonfinite not in made:
            made[skip_nonfinite] = core.make_learner(
                core.from_linen(models.MLP(10, hidden=(16,))),
                core.chain(methods.er(20), *accidents),
                optax.sgd(0.1),
                stream,
                batch_size=16,
                steps=STEPS,
                mesh=mesh,
                skip_nonfinite=skip_nonfinite,
            )
        return made[skip_nonfinite]

    return build


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def result(workdir):
    return json.loads((workdir / "result.json").read_text())
