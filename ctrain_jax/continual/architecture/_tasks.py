"""What methods with weights or masks for each task share: the task of a batch selects the network that it sees."""

from collections.abc import Callable, Container
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Context, Model, Outputs, PyTree, TrainState, Variables

NONE = -1  # of `frozen["live"]`: no task is being learned


def apply_of_task(who: str, num_tasks: int, answer: Callable[..., Any]) -> Callable[..., Any]:
    """The `apply` of a model that has `num_tasks` forms, of which the task of a batch selects one.

    Args:
      who: the method, in what is refused.
      num_tasks: the number of forms.
      answer: `(variables, own, inputs, train=, rng=, task=) -> (Outputs, model_state)` with the form of the task `own`
        and the model state of that task alone.

    Returns:
      `apply`. `model_state` has a copy for each task: see `copies`.
    """

    def apply(variables, inputs, *, train=False, rng=None, task=None):
        if task is None:
            raise ValueError(
                f"{who} needs the task of a batch: use a stream with task_known=True, and leave out methods that ask "
                "the network without a task (ewc, mas): it holds earlier tasks itself."
            )
        tasks = jnp.asarray(task)
        own = tasks.reshape(-1)[0]
        states = variables.model_state
        variables = variables._replace(model_state=jax.tree.map(lambda bank: bank[own], states))
        outputs, state = answer(variables, own, inputs, train=train, rng=rng, task=task)
        if train:
            states = jax.tree.map(lambda bank, leaf: bank.at[own].set(leaf), states, state)
        # One form serves a whole batch: a row of another task is no number, not the answer of a wrong form.
        fits = (tasks == own) & (tasks >= 0) & (tasks < num_tasks)
        return _only_where(fits, outputs), states

    return apply


def by_task(who: str, num_tasks: int, inner: Model, network: Callable[[Variables, jax.Array], PyTree]) -> Callable:
    """`apply_of_task` through `network(variables, task)`, the parameters of `inner` for a task.

    `frozen["base"]` is what `inner` has frozen.
    """

    def answer(variables, own, inputs, **options):
        base = Variables(network(variables, own), variables.model_state, variables.frozen["base"])
        return inner.apply(base, inputs, **options)

    return apply_of_task(who, num_tasks, answer)


def only(which: Callable[[PyTree, PyTree, Context], PyTree]) -> Callable:
    """The optimizer hook under which nothing moves but where `which(s, updates, ctx)`, masks of a tree, says so."""

    def gated(tx):
        def update(updates, state, params=None, **extra):
            masks = which(extra["method_state"], updates, extra["ctx"])

            def own(tree):
                return jax.tree.map(lambda mask, leaf: jnp.where(mask, leaf, 0), masks, tree)

            # What stands still must not enter a norm over all gradients, either.
            updates, state = tx.update(own(updates), state, params, **extra)
            return own(updates), state

        return optax.GradientTransformationExtraArgs(tx.init, update)

    return gated


def check_tasks(who: str, num_tasks: int, ctx: Context, what: str = "masks") -> None:
    """In `init`: one for each experience."""
    if ctx.spec.num_experiences > num_tasks:
        raise ValueError(
            f"{who} has {what} for {num_tasks} tasks, and the stream has {ctx.spec.num_experiences} experiences: give "
            "num_tasks."
        )


def check_rows(who: str, ctx: Context) -> None:
    """In `update`: nobody appended rows."""
    if ctx.batch["weights"].shape != ctx.incoming["weights"].shape:
        raise ValueError(
            f"{who} learns one task a batch, and another method appends rows: leave that out, it holds earlier tasks "
            "itself."
        )


def progress(ts: TrainState, ctx: Context) -> tuple[jax.Array, jax.Array]:
    """In `begin` and `update`: steps of the experience that are done, and all that it has."""
    steps = jnp.asarray(ctx.spec.steps)
    return ts.step - (jnp.cumsum(steps) - steps)[ctx.experience.index], steps[ctx.experience.index]


def copies(tree: PyTree, num_tasks: int) -> PyTree:
    """One for each task, along a new first axis."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * num_tasks), tree)


def named(tree: PyTree) -> dict[str, jax.Array]:
    """Leaves by names like `head.kernel`."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def name_of(path: tuple) -> str:
    """`head.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def cut(tree: PyTree, names: Container[str]) -> PyTree:
    """The tree with `()` in place of the leaves of these names; `filled` puts leaves there again."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: () if name_of(path) in names else leaf, tree)


def filled(tree: PyTree, leaves: dict[str, jax.Array]) -> PyTree:
    """The whole of what `cut` left."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(name_of(path), leaf),
        tree,
        is_leaf=lambda leaf: isinstance(leaf, tuple) and not leaf,
    )


def check_kernels(who: str, match: str, everything: dict[str, jax.Array], kernels: dict[str, jax.Array]) -> None:
    """The pattern finds kernels, and nothing else."""
    if not kernels:
        raise ValueError(f"{who}: match={match!r} finds no parameter: choose from {', '.join(sorted(everything))}.")
    for name, leaf in kernels.items():
        if leaf.ndim < 2:
            raise ValueError(f"{who} masks kernels of two axes or more, got {name} {leaf.shape}: narrow match.")


def check_count(who: str, density: float, name: str, leaf: jax.Array, count: int) -> None:
    """A mask keeps something of a kernel."""
    if count < 1:
        raise ValueError(f"{who}: density={density} leaves no weight of {name} {leaf.shape}: raise it.")


def _only_where(fits: jax.Array, outputs: Outputs) -> Outputs:
    def one(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jnp.where(fits.reshape(*fits.shape, *[1] * (leaf.ndim - fits.ndim)), leaf, jnp.nan)

    features = None if outputs.features is None else one(outputs.features)
    return outputs._replace(logits=one(outputs.logits), features=features)
