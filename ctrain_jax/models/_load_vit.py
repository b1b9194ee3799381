"""Published weights of vision transformers.

The `.npz` files of AugReg (Steiner et al. 2021, "How to train your ViT?", arXiv 2106.10270; Dosovitskiy et al. 2020)
and of big_vision (Beyer et al. 2022, "Better plain ViT baselines for ImageNet-1k", arXiv 2205.01580), and the
`safetensors` files of timm and of Hugging Face transformers. google-research/vision_transformer, big_vision, timm and
transformers were read for the names. On random weights our logits are those of timm 1.0.31 to 2e-6 and those of
transformers 4.57 to 1e-6 with its LayerNorms at our epsilon of 1e-6; with its own, 1e-12, to 5e-5.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import Variables
from ctrain_jax.models._vit import ViT
from ctrain_jax.ops import check_size

# What a name of a file is here.
_FLAX = {
    r"embedding/(kernel|bias)": r"embed/\1",
    r"cls": "cls",
    r"(?:Transformer/posembed_input/)?pos_embedding": "position",
    r"Transformer/encoder_norm/(scale|bias)": r"norm/\1",
    r"Transformer/encoderblock_(\d+)/LayerNorm_0/(scale|bias)": r"block_\1/norm_0/\2",
    r"Transformer/encoderblock_(\d+)/LayerNorm_[12]/(scale|bias)": r"block_\1/norm_1/\2",
    r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_[01]/(\w+/\w+)": r"block_\1/attention/\2",
    r"Transformer/encoderblock_(\d+)/MlpBlock_[03]/Dense_([01])/(\w+)": r"block_\1/mlp_\2/\3",
    r"head/(kernel|bias)": r"head/\1",
}
_TIMM = {
    r"patch_embed\.proj\.(kernel|bias)": r"embed/\1",
    r"cls_token": "cls",
    r"pos_embed": "position",
    r"norm\.(scale|bias)": r"norm/\1",
    r"blocks\.(\d+)\.norm1\.(scale|bias)": r"block_\1/norm_0/\2",
    r"blocks\.(\d+)\.norm2\.(scale|bias)": r"block_\1/norm_1/\2",
    r"blocks\.(\d+)\.attn\.(query|key|value)\.(kernel|bias)": r"block_\1/attention/\2/\3",
    r"blocks\.(\d+)\.attn\.proj\.(kernel|bias)": r"block_\1/attention/out/\2",
    r"blocks\.(\d+)\.mlp\.fc1\.(kernel|bias)": r"block_\1/mlp_0/\2",
    r"blocks\.(\d+)\.mlp\.fc2\.(kernel|bias)": r"block_\1/mlp_1/\2",
    r"head\.(kernel|bias)": r"head/\1",
}
_HUGGING_FACE = {
    r"embeddings\.patch_embeddings\.projection\.(kernel|bias)": r"embed/\1",
    r"embeddings\.cls_token": "cls",
    r"embeddings\.position_embeddings": "position",
    r"layernorm\.(scale|bias)": r"norm/\1",
    r"encoder\.layer\.(\d+)\.layernorm_before\.(scale|bias)": r"block_\1/norm_0/\2",
    r"encoder\.layer\.(\d+)\.layernorm_after\.(scale|bias)": r"block_\1/norm_1/\2",
    r"encoder\.layer\.(\d+)\.attention\.attention\.(\w+)\.(kernel|bias)": r"block_\1/attention/\2/\3",
    r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(kernel|bias)": r"block_\1/attention/out/\2",
    r"encoder\.layer\.(\d+)\.intermediate\.dense\.(kernel|bias)": r"block_\1/mlp_0/\2",
    r"encoder\.layer\.(\d+)\.output\.dense\.(kernel|bias)": r"block_\1/mlp_1/\2",
    r"classifier\.(kernel|bias)": r"head/\1",
}
# Tensors whose shapes say how large the network is, and the numbers of axes that they may have.
_SHAPED = {
    "embed/kernel": (4,),
    "position": (3,),
    "block_0/mlp_0/kernel": (2,),
    "block_0/attention/query/kernel": (2, 3),
    "head/kernel": (2,),
}
_BEHIND = r"pre_logits[/.].*|pooler\..*"  # layers between the features and a head, which ViT does not have


def load_vit(path: str | Path, *, num_classes: int | None = None, heads: int | None = None) -> tuple[ViT, Variables]:
    """A `ViT` with published weights.

    The network is as large as its file says; GELU is the form that the file was made with: tanh for `.npz`, exact for
    `.safetensors`. Images are to be as large as those of the training, of which AugReg's and big_vision's are scaled
    to [-1, 1]: give the source a mean and std of 0.5.

    Args:
      path: `.npz` of AugReg or big_vision, or `.safetensors` of timm or Hugging Face transformers.
      num_classes: of a new head, which starts at 0; by default the head is the file's.
      heads: of attention, which `.safetensors` do not tell; by default one for each 64 units of the width, as in
        ViT-Ti, S, B and L.

    Returns:
      The network and its Variables: `core.run_stream(learner, variables=variables)`, where the learner is of
      `core.from_linen(vit)`.

    Raises:
      ValueError: a file of another network, or of none; `heads` that do not divide the width, or that are not those
        of an `.npz`.
      ImportError: `safetensors` is not installed (`pip install 'ctrain_jax[export]'`).
    """
    path = Path(path)
    if num_classes is not None:
        check_size("num_classes", num_classes)
    if heads is not None:
        check_size("heads", heads)
    if not path.is_file():
        raise ValueError(f"{path} is no file: give the path of weights of a ViT, .npz or .safetensors.")
    if path.suffix == ".npz":
        raw, gelu = _read_npz(path), "tanh"
        names = _FLAX
    elif path.suffix == ".safetensors":
        raw, gelu = _read_safetensors(path), "exact"
        names = _TIMM if any(name.startswith("blocks.") for name in raw) else _HUGGING_FACE
    else:
        raise ValueError(f"load_vit reads .npz and .safetensors, got {path.name}: convert it to one of them.")
    tensors = _named(path, raw, names, num_classes)
    for name, axes in _SHAPED.items():
        if tensors.get(name, np.zeros(())).ndim not in axes:
            told = "no head: give num_classes, for a new one" if name == "head/kernel" else f"no {name} of a ViT"
            raise ValueError(f"{path} holds {told}.")
    patch, across, channels, width = tensors["embed/kernel"].shape
    if patch != across:
        raise ValueError(f"{path} has patches of {patch} x {across} pixels: ViT cuts images into squares.")
    query, position = tensors["block_0/attention/query/kernel"], tensors["position"]
    if query.ndim == 3:
        if heads not in (None, query.shape[1]):
            raise ValueError(f"{path} has {query.shape[1]} heads, got heads={heads}: leave it to the file.")
        heads = query.shape[1]
    patches = position.shape[1]
    if "cls" in tensors and math.isqrt(patches) ** 2 == patches:  # the class token has no position
        tensors["position"] = np.pad(position, ((0, 0), (1, 0), (0, 0)))
    elif "cls" in tensors:
        patches -= 1
    vit = ViT(
        num_classes=tensors["head/kernel"].shape[1],
        patch=patch,
        width=width,
        depth=len({name.split("/")[0] for name in tensors if name.startswith("block_")}),
        heads=heads or max(width // 64, 1),
        mlp_ratio=tensors["block_0/mlp_0/kernel"].shape[1] // width,
        pool="cls" if "cls" in tensors else "mean",
        gelu=gelu,
    )
    side = patch * math.isqrt(patches)
    images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    return vit, Variables(_fitted(path, tensors, jax.eval_shape(vit.init, jax.random.key(0), images)["params"]), {}, {})


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            tensors = {name: file[name] for name in file.files}
    except Exception as error:  # of the archive, of its compression, of the header of an array
        raise ValueError(f"{path} is damaged or no file of arrays ({error}): fetch it again.") from error
    inside = {name[7:]: x for name, x in tensors.items() if name.startswith("params/")}
    tensors = inside or tensors
    stacked = [name for name in tensors if "/encoderblock/" in name]  # blocks of one scan
    for name in stacked:
        for index, x in enumerate(np.atleast_1d(tensors.pop(name))):
            tensors[name.replace("/encoderblock/", f"/encoderblock_{index}/")] = x
    return tensors


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    try:
        raw = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}): fetch it again.") from error
    except (AttributeError, KeyError, TypeError) as error:  # of a dtype that the reader has no name for
        raise ValueError(
            f"{path} holds numbers of another kind than float32, float16 or bfloat16 ({error})."
        ) from error
    tensors = {}
    for name, x in raw.items():
        name, x = name.removeprefix("vit."), np.asarray(x)
        *front, kind = name.split(".")
        if kind == "weight":
            kind = "scale" if x.ndim == 1 else "kernel"
            x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
        name = ".".join([*front, kind])
        if front[-1:] == ["qkv"] and kind in ("kernel", "bias"):
            if not x.ndim or x.shape[-1] % 3:
                raise ValueError(
                    f"{path} has {name} of shape {x.shape[::-1]}, which query, key and value cannot share."
                )
            for part, y in zip(("query", "key", "value"), np.split(x, 3, axis=-1), strict=True):
                tensors[name.replace("qkv", part)] = y
        else:
            tensors[name] = x
    return tensors


def _named(
    path: Path, raw: dict[str, np.ndarray], names: dict[str, str], num_classes: int | None
) -> dict[str, np.ndarray]:
    """The tensors of a file by the names that they have in `ViT`; with a head of zeros where a new one is asked for."""
    tensors = {}
    for name, x in raw.items():
        ours = next((m.expand(new) for old, new in names.items() if (m := re.fullmatch(old, name))), None)
        if ours is None and re.fullmatch(_BEHIND, name) and (num_classes is not None or name.startswith("pooler")):
            continue
        if ours is None:
            what = "give num_classes, which leaves it out" if re.fullmatch(_BEHIND, name) else "ViT has no such layer"
            raise ValueError(f"{path} holds {name}, and load_vit has no place for it: {what}.")
        if num_classes is not None and ours.startswith("head/"):
            continue
        if ours in tensors:
            raise ValueError(f"{path} holds {name} and another tensor for {ours}: it is of another network.")
        if x.dtype == "V2":  # how numpy stores bfloat16
            x = x.view(jnp.bfloat16)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{path} holds {name} as {x.dtype}: weights are floats.")
        tensors[ours] = x.astype(np.float32)
    if num_classes is not None and "embed/kernel" in tensors:
        tensors["head/kernel"] = np.zeros((tensors["embed/kernel"].shape[-1], num_classes), np.float32)
        tensors["head/bias"] = np.zeros(num_classes, np.float32)
    return tensors


def _fitted(path: Path, tensors: dict[str, np.ndarray], shapes: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of parameters, each tensor with the axes that it has there."""
    flat: dict[str, Any] = dict(flax.traverse_util.flatten_dict(shapes, sep="/"))
    if wrong := sorted(flat.keys() ^ tensors.keys()):
        word = "lacks" if wrong[0] in flat else "also has"
        raise ValueError(f"{path} {word} {wrong[0]}: it is of another network.")
    params = {}
    for name, shape in flat.items():
        x = tensors[name]
        if x.size != shape.size:
            raise ValueError(f"{path} has {name} of shape {x.shape}, expected {shape.shape}: it is of another network.")
        params[name] = jnp.asarray(x.reshape(shape.shape), jnp.float32)
    return flax.traverse_util.unflatten_dict(params, sep="/")
