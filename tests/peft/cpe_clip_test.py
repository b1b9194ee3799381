"""Coupled prompts: attention over them by hand, what is trained, and a class that adds nothing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import core, models, peft

NAMES = ((0, 1, 4), (0, 2, 4), (3, 1, 4))
BASE = models.Clip(3, names=NAMES, dim=4, patch=4, width=8, depth=3, heads=2, scale=5.0)
INPUTS = np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32)


def varied(variables):
    """Every leaf random: zeros and ones of a new network would hide mistakes."""
    noise = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(0.4 * noise.standard_normal(x.shape), x.dtype), variables)


def tower_by_hand(params, tokens, prompts, causal, accumulate):
    """Blocks over tokens [T, D] in numpy, with prompts in front of the first of them."""

    def norm(x, p):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    x, front = tokens, np.zeros((0, tokens.shape[1]))
    for i in range(3):
        p = params[f"block_{i}"]
        if i < len(prompts):
            front = np.concatenate([front, prompts[i]]) if accumulate else prompts[i]
        whole = np.concatenate([front, x])
        y, out = norm(whole, p["norm_0"]), np.zeros_like(whole)
        for h in range(2):
            q, k, v = (
                y @ p["attention"][n]["kernel"][:, h] + p["attention"][n]["bias"][h] for n in ("query", "key", "value")
            )
            for row in range(len(whole)):
                among = slice(0, row + 1) if causal else slice(None)
                weight = np.exp(q[row] @ k[among].T / np.sqrt(q.shape[1]))
                out[row] += weight / weight.sum() @ v[among] @ p["attention"]["out"]["kernel"][h]
        whole = whole + out + p["attention"]["out"]["bias"]
        hidden = norm(whole, p["norm_1"]) @ p["mlp_0"]["kernel"] + p["mlp_0"]["bias"]
        hidden = np.asarray(nn.gelu(jnp.asarray(hidden)))
        whole = whole + hidden @ p["mlp_1"]["kernel"] + p["mlp_1"]["bias"]
        front, x = whole[: len(front)], whole[len(front) :]
    return norm(x, params["norm"])


@pytest.mark.parametrize(("text", "image"), [("replace", "accumulate"), ("accumulate", "replace")])
def test_what_the_towers_answer_by_hand(text, image):
    model = peft.cpe_clip(2, 2, text=text, image=image)(core.from_linen(BASE))
    variables = varied(jax.eval_shape(model.init, jax.random.key(0), INPUTS))
    outputs, _ = jax.jit(lambda v: model.apply(v, INPUTS))(variables)
    new, base = jax.tree.map(lambda x: np.asarray(x, np.float64), (variables.params["new"], variables.frozen["params"]))
    words = []
    for name in NAMES:
        tokens = base["text"]["embed"]["embedding"][list(name)] + base["text"]["position"]
        last = tower_by_hand(base["text"], tokens, new["prompts"], True, text == "accumulate")[-1]
        words.append(last @ base["text_projection"]["kernel"])
    places = []
    for x in INPUTS.astype(np.float64):
        patches = np.stack([x[i : i + 4, j : j + 4].ravel() for i in (0, 4) for j in (0, 4)])
        tokens = patches @ base["image"]["embed"]["kernel"] + base["image"]["embed"]["bias"]
        tokens = np.concatenate([base["image"]["cls"][0], tokens]) + base["image"]["position"][0]
        mapped = new["prompts"] @ new["kernel"] + new["bias"]
        first = tower_by_hand(base["image"], tokens, mapped, False, image == "accumulate")[0]
        places.append(first @ base["image"]["head"]["kernel"] + base["image"]["head"]["bias"])
    u, w = (np.array(v) / np.linalg.norm(v, axis=1, keepdims=True) for v in (places, words))
    np.testing.assert_allclose(outputs.logits, 5.0 * u @ w.T, rtol=1e-4, atol=1e-4)


def test_prompts_and_their_map_are_all_that_is_trained():
    model = peft.cpe_clip(3, 2)(core.from_linen(BASE))
    variables = jax.eval_shape(model.init, jax.random.key(0), INPUTS)
    assert sum(x.size for x in jax.tree.leaves(variables.params)) == 3 * 2 * 8 + 8 * 8 + 8
    assert jax.tree.structure(variables.frozen["params"]) == jax.tree.structure(
        jax.eval_shape(core.from_linen(BASE).init, jax.random.key(0), INPUTS).params
    )


def test_prompts_and_their_map_start_within_the_bounds_of_pytorch():
    model = peft.cpe_clip(3, 2)(core.from_linen(BASE))
    new = jax.jit(lambda key: model.init(key, INPUTS).params["new"])(jax.random.key(0))
    for name, bound in {"prompts": (6 / (3 * 8 + 2 * 8)) ** 0.5, "kernel": 8**-0.5, "bias": 8**-0.5}.items():
        largest = np.abs(new[name]).max()
        assert 0.6 * bound < largest <= bound, f"{name}: {largest} of {bound}"


def test_leaves_of_the_base_that_stay_trained():
    model = peft.cpe_clip(3, 2, train=r"image\.head")(core.from_linen(BASE))
    trained = jax.eval_shape(model.init, jax.random.key(0), INPUTS).params["base"]
    assert sorted(trained) == ["image.head.bias", "image.head.kernel"]


class Foreign(nn.Module):
    """Its blocks are called as ours are, and are of another kind: prompts would not reach them."""

    @nn.compact
    def __call__(self, inputs, train=False):
        flat, towers = inputs.reshape(len(inputs), -1), [Tower(name="image"), Tower(name="text")]
        return core.Outputs(towers[0](flat) * towers[1](flat))


class Tower(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Layer(name="block_0")(x)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.LayerNorm(name="norm_0")(x))


def test_what_it_refuses():
    for arguments, match in (
        ({"length": 0}, "length"),
        ({"depth": 0}, "depth"),
        ({"text": "append"}, "text must be"),
        ({"image": "append"}, "image must be"),
        ({"train": "(head"}, "train expects a regular expression"),
    ):
        with pytest.raises(ValueError, match=match):
            peft.cpe_clip(**arguments)
    for depth, base in ((4, BASE), (1, models.MLP(3)), (1, Foreign())):
        with pytest.raises(ValueError, match="cpe_clip expects towers .* use models.Clip, or a lower depth"):
            jax.eval_shape(peft.cpe_clip(2, depth)(core.from_linen(base)).init, jax.random.key(0), INPUTS)
