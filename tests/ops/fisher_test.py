"""`fisher_diagonal` and `absolute_gradients` against loops of `vmap(grad)`, closed forms, and its own cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from ctrain_jax import models
from ctrain_jax.ops import absolute_gradients, fisher_diagonal

BATCH, CLASSES = 5, 4
KEY = jax.random.key(3)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def naive(forward, params, inputs, mode, weights, mask, labels):
    """Squares per-example gradients of log p, one class at a time."""

    def log_p(params, x, allowed, c):
        logits = forward(params, jax.tree.map(lambda v: v[None], x))[0]
        return jax.nn.log_softmax(jnp.where(allowed, logits, -1e30))[c]

    def squared(c):
        grads = jax.vmap(jax.grad(log_p), (None, 0, 0, 0))(params, inputs, mask, c)
        return jax.tree.map(lambda g: g**2, grads)

    def total(squares, factor):
        return jax.tree.map(lambda s: jnp.tensordot(factor, s, 1), squares)

    if mode != "exact":
        return total(squared(labels), weights)
    logits = forward(params, inputs)
    probs = jax.nn.softmax(jnp.where(mask, logits, -1e30))
    parts = jax.vmap(lambda c, p: total(squared(jnp.full(len(weights), c)), weights * p))(jnp.arange(CLASSES), probs.T)
    return jax.tree.map(lambda part: part.sum(0), parts)


def close(got, want, rtol=2e-4):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    # The key's bias of attention has no influence: its Fisher information is rounding on the scale of the others.
    largest = max(np.max(w) for w in jax.tree.leaves(want))
    for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        atol = max(2e-5 * np.max(w), 1e-12 * largest)
        np.testing.assert_allclose(g, w, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


class Mlp(nn.Module):
    norm: str = "none"

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for width in (7, 6):
            x = nn.Dense(width)(x)
            if self.norm == "batch":
                x = nn.BatchNorm(use_running_average=True)(x)
            if self.norm == "layer":
                x = nn.LayerNorm()(x)
            x = nn.gelu(x)
        return nn.Dense(CLASSES)(x)


class Cnn(nn.Module):
    conv: type
    groups: int = 1

    @nn.compact
    def __call__(self, x):
        x = nn.relu(self.conv(3, (3, 3), strides=2)(x))
        x = nn.GroupNorm(num_groups=3)(x)
        x = nn.relu(self.conv(6, (2, 2), padding="VALID", feature_group_count=self.groups)(x))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Positions(nn.Module):
    """Attention over positions, with a class token and a position embedding."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        token = self.param("token", nn.initializers.normal(1.0), (1, 1, 8))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 8)), x], axis=1)
        x = x + self.param("position", nn.initializers.normal(1.0), (1, x.shape[1], 8))
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        return nn.Dense(CLASSES)(x[:, 0])


class Remat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(jnp.tanh(nn.remat(nn.Dense)(6)(x)))


def linen(module, *shape, batch=BATCH):
    inputs = normal(1, batch, *shape)
    variables = module.init(jax.random.key(0), inputs)
    # Neither zeros nor ones, so that biases, scales and running statistics matter.
    variables = jax.tree.map(lambda v: v + 0.3 * jnp.abs(normal(v.size, *v.shape)), variables)
    rest = {name: v for name, v in variables.items() if name != "params"}
    return lambda p, x: module.apply({"params": p, **rest}, x), variables["params"], inputs


def by_hand(forward, inputs=None, **shapes):
    params = {name: 0.5 * normal(i + 10, *shape) for i, (name, shape) in enumerate(sorted(shapes.items()))}
    return forward, params, normal(1, BATCH, 6) if inputs is None else inputs


def nnx_model():
    module = nnx.Sequential(nnx.Linear(6, 5, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(5, CLASSES, rngs=nnx.Rngs(1)))
    graph, state = nnx.split(module)
    return lambda p, x: nnx.merge(graph, p)(x), nnx.to_pure_dict(state), normal(1, BATCH, 6)


def scanned(p, x):
    x = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["layers"])[0]
    return x @ p["out"]


MASK = (jnp.arange(36).reshape(6, 6) % 3 > 0).astype(jnp.float32)
SINGLE_PASS = {
    "mlp": lambda: linen(Mlp(), 6),
    "batch_norm": lambda: linen(Mlp("batch"), 6),
    "layer_norm": lambda: linen(Mlp("layer"), 6),
    "our_conv": lambda: linen(Cnn(models.Conv), 6, 6, 2),
    "flax_conv": lambda: linen(Cnn(nn.Conv, groups=3), 6, 6, 2),
    "positions_as_many_as_examples": lambda: linen(Positions(), BATCH, 6),
    "remat": lambda: linen(Remat(), 6),
    "one_example": lambda: linen(Mlp("batch"), 6, batch=1),
    "nnx": nnx_model,
    "by_hand": lambda: by_hand(
        lambda p, x: jnp.tanh(x @ p["w"] + p["b"]) * p["s"] @ p["o"], w=(6, 5), b=(5,), s=(), o=(5, 4)
    ),
    "jitted": lambda: by_hand(jax.jit(lambda p, x: jnp.tanh(x @ p["w"]) @ p["o"] - p["b"]), w=(6, 5), o=(5, 4), b=(4,)),
    "reshaped_kernel": lambda: by_hand(
        lambda p, x: jnp.tanh(x @ p["w"].reshape(5, 6).T) @ p["o"].reshape(5, 4), w=(1, 30), o=(20,)
    ),
    "tied": lambda: by_hand(lambda p, x: jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"]) @ p["o"], w=(6, 6), o=(6, 4)),
    "tied_transposed": lambda: by_hand(lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T @ p["o"], w=(6, 5), o=(6, 4)),
    "kernel_also_as_bias": lambda: by_hand(lambda p, x: jnp.tanh(x @ p["w"] + p["w"][0]) @ p["o"], w=(6, 6), o=(6, 4)),
    "masked": lambda: by_hand(lambda p, x: jnp.tanh(x @ (p["w"] * MASK)) @ p["o"], w=(6, 6), o=(6, 4)),
    "merged": lambda: by_hand(
        lambda p, x: jnp.tanh(x @ (p["w"] + p["a"] @ p["b"])) @ p["o"], w=(6, 6), a=(6, 2), b=(2, 6), o=(6, 4)
    ),
    "broadcast_bias": lambda: by_hand(
        lambda p, x: x @ p["w"] + jnp.broadcast_to(p["b"], (len(x), 4)), b=(4,), w=(6, 4)
    ),
    "vmapped_within": lambda: by_hand(
        lambda p, x: jax.vmap(lambda row: jnp.tanh(row @ p["w"] + p["b"]) @ p["o"])(x), w=(6, 5), b=(5,), o=(5, 4)
    ),
    "sorted": lambda: by_hand(lambda p, x: jnp.sort(x @ p["w"] + jnp.cumsum(p["b"])[None], 1), w=(6, 4), b=(4,)),
    "positions_merged_into_rows": lambda: by_hand(
        lambda p, x: jnp.tanh(x.reshape(-1, 2) @ p["w"]).reshape(-1, 15) @ p["o"], w=(2, 5), o=(15, 4)
    ),
    "unused": lambda: by_hand(lambda p, x: x @ p["w"], w=(6, 4), never=(3,)),
    "tree_of_inputs": lambda: by_hand(
        lambda p, x: jnp.tanh(x["a"] @ p["w"]) @ p["o"] * x["b"],
        {"a": normal(1, BATCH, 6), "b": normal(2, BATCH, 4)}, w=(6, 5), o=(5, 4),
    ),
}  # fmt: skip
SECOND_PASS = {
    "scanned": lambda: by_hand(scanned, layers=(3, 6, 6), out=(6, 4)),
    "embedding": lambda: by_hand(
        lambda p, x: jnp.tanh(p["table"][x].mean(1) @ p["w"]), jnp.arange(15).reshape(5, 3) % 7, table=(7, 6), w=(6, 4)
    ),
    "positions_first": lambda: by_hand(
        lambda p, x: jnp.tanh(x.reshape(-1, 3, 2).swapaxes(0, 1) @ p["w"]).sum(0) @ p["o"], w=(2, 5), o=(5, 4)
    ),
    "positions_first_as_many_as_examples": lambda: by_hand(
        lambda p, x: jnp.tanh(x.swapaxes(0, 1) @ p["w"]).sum(0) @ p["o"], normal(1, 5, 5, 2), w=(2, 5), o=(5, 4)
    ),
    "positions_first_merged_into_rows": lambda: by_hand(
        lambda p, x: (jnp.tanh(x.swapaxes(0, 1).reshape(-1, 2) @ p["w"]).reshape(3, -1, 5)).sum(0) @ p["o"],
        normal(1, 5, 3, 2),
        w=(2, 5),
        o=(5, 4),
    ),
    "rows_in_another_order": lambda: by_hand(
        lambda p, x: jnp.tanh(x[jnp.argsort(x[:, 0])] @ p["w"])[jnp.argsort(jnp.argsort(x[:, 0]))] @ p["o"],
        w=(6, 5),
        o=(5, 4),
    ),
    "rows_reversed": lambda: by_hand(lambda p, x: jnp.tanh(x[::-1] @ p["w"])[::-1] @ p["o"], w=(6, 5), o=(5, 4)),
    "kernel_on_the_left": lambda: by_hand(lambda p, x: (p["w"] @ x.T).T, w=(4, 6)),
    "grouped_conv": lambda: linen(Cnn(models.Conv, groups=3), 6, 6, 2),
}


CASES = [(name, "exact") for name in (*SINGLE_PASS, *SECOND_PASS)]
CASES += [(name, mode) for name in ("layer_norm", "our_conv", "scanned") for mode in ("sampled", "empirical")]
CASES += [("layer_norm", "predicted")]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_equals_loop_over_examples(name, mode):
    forward, params, inputs = {**SINGLE_PASS, **SECOND_PASS}[name]()
    batch = len(jax.tree.leaves(inputs)[0])
    weights = jnp.array([1.0, 0.0, 2.0, 0.5, 1.0])[:batch]
    mask = jnp.ones((batch, CLASSES), bool)
    labels = jnp.arange(batch) % CLASSES
    if mode == "sampled":
        labels = jax.random.categorical(KEY, forward(params, inputs))
    elif mode == "predicted":
        labels = forward(params, inputs).argmax(1)
    given, sizes = labels if mode == "empirical" else None, []

    def watched(params, inputs):
        sizes.append(len(jax.tree.leaves(inputs)[0]))
        return forward(params, inputs)

    @jax.jit
    def both(params):
        got = fisher_diagonal(watched, params, inputs, KEY, labels=given, weights=weights, mode=mode, chunk=2)
        return got, naive(forward, params, inputs, mode, weights, mask, labels)

    close(*both(params))
    # Gradients of one example after another through the whole model are needed where SECOND_PASS says so alone.
    assert sizes == [batch, batch + 1] + [1] * sizes[2:].count(1)
    assert (len(sizes) > 2) == (name in SECOND_PASS)


@pytest.mark.parametrize("name", ["our_conv", "nnx", "by_hand", "tied", "scanned", "embedding"])
def test_absolute_gradients_equal_a_loop_over_examples(name):
    """Of the squared length of three of the four outputs; signs differ between examples, and padding has no part."""
    forward, params, inputs = {**SINGLE_PASS, **SECOND_PASS}[name]()
    weights, kept = jnp.array([1.0, 2.0, 0.0, 1.0, 0.5]), jnp.array([1.0, 1.0, 0.0, 1.0])

    def one(params, x):
        return jnp.sum(kept * forward(params, jax.tree.map(lambda v: v[None], x))[0] ** 2)

    @jax.jit
    def both(params):
        got = absolute_gradients(forward, params, inputs, lambda y: jnp.sum(kept * y**2, 1), weights=weights, chunk=2)
        grads = jax.vmap(jax.grad(one), (None, 0))(params, inputs)
        want = jax.tree.map(lambda g: jnp.tensordot(weights, jnp.abs(g), 1), grads)
        return got, want, jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), grads)

    got, want, cancelled = both(params)
    close(got, want)
    largest = sum(np.sum(np.abs(x)) for x in jax.tree.leaves(cancelled))
    assert largest < 0.95 * sum(np.sum(x) for x in jax.tree.leaves(got))


@pytest.mark.parametrize("mode", ["sampled", "predicted", "exact"])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("name", ["tied", "scanned"])
def test_class_mask(name, rows, mode):
    forward, params, inputs = {**SINGLE_PASS, **SECOND_PASS}[name]()
    mask = jnp.array([True, False, True, True])
    if rows:
        mask = jnp.stack([jnp.roll(mask, i) for i in range(BATCH)])
    full = jnp.broadcast_to(mask, (BATCH, CLASSES))
    labels = jnp.argmax(full, axis=1)
    if mode == "sampled":
        labels = jax.random.categorical(KEY, jnp.where(full, forward(params, inputs), -1e30))
    elif mode == "predicted":
        labels = jnp.where(full, forward(params, inputs), -1e30).argmax(1)

    @jax.jit
    def both(params):
        got = fisher_diagonal(forward, params, inputs, KEY, labels=labels, mode=mode, class_mask=mask)
        return got, naive(forward, params, inputs, mode, jnp.ones(BATCH), full, labels)

    close(*both(params))


def test_softmax_regression_closed_form():
    inputs, kernel, bias = normal(1, 9, 3), normal(2, 3, 4), normal(3, 4)
    got = fisher_diagonal(lambda p, x: x @ p[0] + p[1], (kernel, bias), inputs, KEY, mode="exact")
    x, logits = np.asarray(inputs, np.float64), np.asarray(inputs @ kernel + bias, np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    close(got, (np.einsum("ni,nc->ic", x**2, p * (1 - p)), (p * (1 - p)).sum(0)))


def test_sampled_is_unbiased():
    forward, params, inputs = linen(Mlp(), 6)
    exact = fisher_diagonal(forward, params, inputs, KEY, mode="exact")
    keys = jax.random.split(KEY, 1000)
    draws = jax.jit(jax.vmap(lambda k: fisher_diagonal(forward, params, inputs, k)))(keys)
    for draw, want in zip(jax.tree.leaves(draws), jax.tree.leaves(exact), strict=True):
        error = (draw.mean(0) - want) / (draw.std(0) / np.sqrt(len(keys)) + 1e-6 * want.max())
        assert np.max(np.abs(error)) < 5.0
        assert np.max(draw.std(0)) > 0


def test_is_not_the_square_of_the_batch_gradient():
    forward, params, inputs = linen(Mlp(), 6)
    labels = jnp.arange(BATCH) % CLASSES
    got = fisher_diagonal(forward, params, inputs, KEY, labels=labels, mode="empirical")

    def loss(p):
        return -jnp.take_along_axis(jax.nn.log_softmax(forward(p, inputs)), labels[:, None], 1).mean()

    ratio = jax.tree.map(lambda f, g: jnp.sum(f / BATCH) / jnp.sum(g**2), got, jax.grad(loss)(params))
    assert all(r > 1.5 for r in jax.tree.leaves(ratio))


def test_inside_loop_and_vmap_over_params():
    forward, params, inputs = linen(Cnn(models.Conv), 6, 6, 2)
    several = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p, -p]), params)

    def one(params):
        zeros = jax.tree.map(jnp.zeros_like, params)

        def body(i, total):
            part = fisher_diagonal(forward, params, inputs * (i + 1), KEY, mode="exact", chunk=2)
            return jax.tree.map(jnp.add, total, part)

        return jax.lax.fori_loop(0, 2, body, zeros)

    got = jax.jit(jax.vmap(one))(several)
    for i in range(3):
        own = jax.tree.map(lambda p, i=i: p[i], several)
        mask, weights = jnp.ones((BATCH, CLASSES), bool), jnp.ones(BATCH)
        parts = [naive(forward, own, inputs * k, "exact", weights, mask, None) for k in (1, 2)]
        close(jax.tree.map(lambda p, i=i: p[i], got), jax.tree.map(jnp.add, *parts))


def test_padding_rows_and_chunks_do_not_matter():
    forward, params, inputs = linen(Cnn(models.Conv), 6, 6, 2)
    alone = jax.jit(lambda p: fisher_diagonal(forward, p, inputs[:3], KEY, mode="exact"))(params)
    weights = jnp.array([1, 1, 1, 0, 0])
    for chunk in (1, 2, 100):
        options = {"mode": "exact", "weights": weights, "chunk": chunk}
        got = jax.jit(lambda p, options=options: fisher_diagonal(forward, p, inputs, KEY, **options))(params)
        close(got, alone)


def test_half_precision_layers_give_float32():
    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(16, dtype=jnp.bfloat16)(x))
            return nn.Dense(CLASSES, dtype=jnp.bfloat16)(x).astype(jnp.float32)

    forward, params, inputs = linen(Half(), 6)
    got = jax.jit(lambda p: fisher_diagonal(forward, p, inputs, KEY, mode="exact"))(params)
    assert {g.dtype for g in jax.tree.leaves(got)} == {jnp.dtype(jnp.float32)}
    want = naive(forward, params, inputs, "exact", jnp.ones(BATCH), jnp.ones((BATCH, CLASSES), bool), None)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, atol=0.03 * np.max(w))


def flops(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def test_cost_in_gradient_passes():
    batch, classes = 128, 10
    shapes = [(784, 100), (100, 100), (100, classes)]
    params = [(0.05 * normal(i, *shape), jnp.zeros(shape[1])) for i, shape in enumerate(shapes)]
    inputs, labels = normal(9, batch, 784), jnp.zeros(batch, int)

    def forward(params, x):
        for kernel, bias in params[:-1]:
            x = jax.nn.relu(x @ kernel + bias)
        return x @ params[-1][0] + params[-1][1]

    def loss(params, inputs):
        return -jnp.take_along_axis(jax.nn.log_softmax(forward(params, inputs)), labels[:, None], 1).mean()

    def fisher(params, inputs):
        return fisher_diagonal(forward, params, inputs, KEY, labels=labels, mode="empirical")

    assert flops(fisher, params, inputs) < 1.5 * flops(jax.value_and_grad(loss), params, inputs)


def test_refusals():
    forward, params, inputs = linen(Mlp(), 6)
    with pytest.raises(ValueError, match="mode must be one of"):
        fisher_diagonal(forward, params, inputs, KEY, mode="true")
    with pytest.raises(ValueError, match="needs labels"):
        fisher_diagonal(forward, params, inputs, KEY, mode="empirical")
    with pytest.raises(ValueError, match="chunk must be above 0"):
        fisher_diagonal(forward, params, inputs, KEY, chunk=0)
    with pytest.raises(ValueError, match=r"forward must return logits \[B, C\]"):
        fisher_diagonal(lambda p, x: (forward(p, x), x), params, inputs, KEY)
    with pytest.raises(ValueError, match=r"forward must return logits \[B, C\]"):
        fisher_diagonal(lambda p, x: forward(p, x).sum(), params, inputs, KEY)
