"""Weights in the formats of others: written by modules and names of theirs, read by ours."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import save_file

from ctrain_jax import core
from ctrain_jax.models import ViT, load_vit

WIDTH, HEADS, DEPTH, CLASSES, PATCH, SIDE = 8, 2, 2, 3, 4, 8


class Published(nn.Module):
    """The network of AugReg, by the names that flax gave its layers; `late`: those of big_vision."""

    late: bool = False

    @nn.compact
    def __call__(self, images):
        number = (0, 1, 0, 0) if self.late else (0, 2, 1, 3)
        x = nn.Conv(WIDTH, (PATCH, PATCH), strides=(PATCH, PATCH), padding="VALID", name="embedding")(images)
        x = x.reshape(len(x), -1, WIDTH)
        cls = self.param("cls", nn.initializers.normal(), (1, 1, WIDTH))
        if not self.late:
            x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], 1)
        name = "pos_embedding" if self.late else "Transformer/posembed_input/pos_embedding"
        x = x + self.param(name, nn.initializers.normal(), (1, x.shape[1], WIDTH))
        if self.late:
            x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], 1)
        for index in range(DEPTH):
            block = f"Transformer/encoderblock_{index}/"
            y = nn.LayerNorm(name=f"{block}LayerNorm_{number[0]}")(x)
            x = x + nn.MultiHeadDotProductAttention(HEADS, name=f"{block}MultiHeadDotProductAttention_{number[2]}")(y)
            y = nn.LayerNorm(name=f"{block}LayerNorm_{number[1]}")(x)
            y = nn.gelu(nn.Dense(2 * WIDTH, name=f"{block}MlpBlock_{number[3]}/Dense_0")(y))
            x = x + nn.Dense(WIDTH, name=f"{block}MlpBlock_{number[3]}/Dense_1")(y)
        x = nn.LayerNorm(name="Transformer/encoder_norm")(x)[:, 0]
        return nn.Dense(CLASSES, name="head")(x)


def written(tree):
    """Flat names with arrays, none of which is 0 or 1 throughout."""
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    noise = np.random.default_rng(0)
    return {name: np.asarray(x) + 0.1 * noise.normal(size=x.shape).astype(np.float32) for name, x in flat.items()}


def ours():
    """A network of ours, its Variables, and images."""
    vit = ViT(CLASSES, patch=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS, mlp_ratio=2, gelu="exact")
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, SIDE, SIDE, 3)), jnp.float32)
    params = flax.traverse_util.unflatten_dict(written(vit.init(jax.random.key(0), images)["params"]), sep="/")
    return vit, core.Variables(params, {}, {}), images


def in_torch(params, form):
    """Parameters by the names and layouts of PyTorch, as timm or Hugging Face write them."""
    named = {}

    def linear(name, layer, width=WIDTH):
        named[f"{name}.weight"] = np.asarray(layer["kernel"]).reshape(width, -1).T
        named[f"{name}.bias"] = np.asarray(layer["bias"]).reshape(-1)

    def norm(name, layer):
        named[f"{name}.weight"], named[f"{name}.bias"] = layer["scale"], layer["bias"]

    timm = form == "timm"
    embed = params["embed"]["kernel"].reshape(PATCH, PATCH, 3, WIDTH).transpose(3, 2, 0, 1)
    front = "" if timm else "vit.embeddings."
    embedding = "patch_embed.proj" if timm else f"{front}patch_embeddings.projection"
    named[f"{embedding}.weight"], named[f"{embedding}.bias"] = embed, params["embed"]["bias"]
    named[f"{front}cls_token"] = params["cls"]
    named[f"{front}{'pos_embed' if timm else 'position_embeddings'}"] = params["position"]
    for index in range(DEPTH):
        block = params[f"block_{index}"]
        attention = block["attention"]
        if timm:
            to = f"blocks.{index}."
            parts = [attention[name] for name in ("query", "key", "value")]
            named[f"{to}attn.qkv.weight"] = np.concatenate([p["kernel"].reshape(WIDTH, WIDTH).T for p in parts])
            named[f"{to}attn.qkv.bias"] = np.concatenate([p["bias"].reshape(-1) for p in parts])
            names = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
        else:
            to = f"vit.encoder.layer.{index}."
            for name in ("query", "key", "value"):
                linear(f"{to}attention.attention.{name}", attention[name])
            names = ("layernorm_before", "layernorm_after", "attention.output.dense", "intermediate.dense")
            names = (*names, "output.dense")
        norm(to + names[0], block["norm_0"])
        norm(to + names[1], block["norm_1"])
        linear(to + names[2], attention["out"])
        linear(to + names[3], block["mlp_0"])
        linear(to + names[4], block["mlp_1"], 2 * WIDTH)
    norm("norm" if timm else "vit.layernorm", params["norm"])
    linear("head" if timm else "classifier", params["head"])
    return {name: np.ascontiguousarray(x) for name, x in named.items()}


@pytest.mark.parametrize("late", [False, True])
def test_a_network_of_flax_answers_the_same(tmp_path, late):
    """AugReg's form, and big_vision's, whose blocks may be stacked and whose class token has no position."""
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, SIDE, SIDE, 3)), jnp.float32)
    module = Published(late)
    params = module.init(jax.random.key(0), images)["params"]
    flat = written(params)
    expected = module.apply({"params": {k: flax_part(flat, k) for k in params}}, images)
    file = dict(flat)
    if late:
        for name in [name for name in file if "encoderblock_0" in name]:
            blocks = [file.pop(name.replace("_0/", f"_{index}/", 1)) for index in range(DEPTH)]
            file[name.replace("encoderblock_0", "encoderblock")] = np.stack(blocks)
        file = {f"params/{name}": x for name, x in file.items()} | {"opt/count": np.zeros(3)}
    np.savez(tmp_path / "vit.npz", **file)
    vit, variables = load_vit(tmp_path / "vit.npz")
    assert (vit.heads, vit.depth, vit.pool, vit.gelu, vit.mlp_ratio) == (HEADS, DEPTH, "cls", "tanh", 2)
    outputs, _ = core.from_linen(vit).apply(variables, images)
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-5)


def flax_part(flat, name):
    """The sub-tree, or the leaf, of a top-level name."""
    if name in flat:
        return flat[name]
    inside = {key.removeprefix(f"{name}/"): x for key, x in flat.items() if key.startswith(f"{name}/")}
    return flax.traverse_util.unflatten_dict(inside, sep="/")


@pytest.mark.parametrize("form", ["timm", "hugging_face"])
def test_tensors_of_torch_come_back_bit_for_bit(tmp_path, form):
    vit, variables, images = ours()
    save_file(in_torch(variables.params, form), tmp_path / "vit.safetensors")
    read, back = load_vit(tmp_path / "vit.safetensors", heads=HEADS)
    assert read == vit
    assert jax.tree.structure(back.params) == jax.tree.structure(variables.params)
    for x, y in zip(jax.tree.leaves(back.params), jax.tree.leaves(variables.params), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_new_head_answers_zero_until_it_learns(tmp_path):
    vit, variables, images = ours()
    named = in_torch(variables.params, "timm") | {"pre_logits.fc.weight": np.ones((4, 4), np.float32)}
    save_file(named, tmp_path / "vit.safetensors")
    new, loaded = load_vit(tmp_path / "vit.safetensors", num_classes=7, heads=HEADS)
    outputs, _ = core.from_linen(new).apply(loaded, images)
    old, _ = core.from_linen(vit).apply(variables, images)
    np.testing.assert_array_equal(outputs.logits, np.zeros((2, 7)))
    np.testing.assert_array_equal(outputs.features, old.features)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"dist_token": np.ones(3, np.float32)}, "holds dist_token.*has no such layer"),
        (lambda t: t | {"pre_logits.fc.bias": np.ones(3, np.float32)}, "pre_logits.fc.bias.*give num_classes"),
        (lambda t: {k: x for k, x in t.items() if not k.startswith("head")}, "holds no head: give num_classes"),
        (lambda t: {k: x for k, x in t.items() if k != "blocks.1.norm2.bias"}, "lacks block_1/norm_1/bias"),
        (lambda t: t | {"pos_embed": np.ones((1, 8, WIDTH), np.float32)}, "position of shape"),
        (lambda t: t | {"patch_embed.proj.weight": np.ones((WIDTH, 3, 4, 2), np.float32)}, "4 x 2 pixels"),
        (lambda t: {"blocks.0.norm1.bias": np.ones(3, np.float32)}, "holds no embed/kernel of a ViT"),
        (
            lambda t: t | {"blocks.0.attn.qkv.weight": np.ones((25, 8), np.float32)},
            r"of shape \(25, 8\), which query, key",
        ),
        (lambda t: t | {"blocks.0.attn.qkv.lora_A": np.ones((2, 8), np.float32)}, "qkv.lora_A.*has no such layer"),
        (lambda t: {k: x.astype(np.int32) for k, x in t.items()}, "as int32: weights are floats"),
    ],
)
def test_a_file_of_another_network_is_refused(tmp_path, change, message):
    _, variables, _ = ours()
    save_file(change(in_torch(variables.params, "timm")), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=message):
        load_vit(tmp_path / "vit.safetensors", heads=HEADS)


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    for name in ("vit.npz", "vit.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ValueError, match="is damaged or no"):
            load_vit(tmp_path / name)
    with pytest.raises(ValueError, match="is no file"):
        load_vit(tmp_path / "none.npz")
    (tmp_path / "vit.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"reads \.npz and \.safetensors"):
        load_vit(tmp_path / "vit.pth")
    np.savez(tmp_path / "objects.npz", cls=np.array([{}], object))
    with pytest.raises(ValueError, match="is damaged or no"):
        load_vit(tmp_path / "objects.npz")


def test_odd_tensors_of_flax_are_refused(tmp_path):
    images = jnp.ones((1, SIDE, SIDE, 3))
    flat, path = written(Published().init(jax.random.key(0), images)["params"]), tmp_path / "vit.npz"
    other = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/bias"
    for change, message in (
        ({other: np.ones((HEADS, WIDTH // HEADS), np.float32)}, "and another tensor for block_0/attention/query/bias"),
        ({"cls": np.array(["a"])}, "holds cls as <U1: weights are floats"),
        ({"Transformer/encoderblock/MlpBlock_0/Dense_0/bias": np.float32(1)}, "another tensor for block_0/mlp_0/bias"),
    ):
        np.savez(path, **flat | change)
        with pytest.raises(ValueError, match=message):
            load_vit(path)
    np.savez(path, **flat)
    with pytest.raises(ValueError, match="has 2 heads, got heads=4: leave it to the file"):
        load_vit(path, heads=4)
    np.savez(path, **{name: x for name, x in flat.items() if "encoder_norm" not in name})
    with pytest.raises(ValueError, match="lacks norm/bias"):
        load_vit(path, num_classes=3)


def test_numbers_of_8_bits_are_refused(tmp_path):
    header = b'{"cls_token": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}'
    (tmp_path / "vit.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match="numbers of another kind"):
        load_vit(tmp_path / "vit.safetensors")
