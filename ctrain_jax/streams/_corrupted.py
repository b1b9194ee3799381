"""Continual test-time adaptation: the test rows of a source come back, corrupted in one way after another.

Wang, Fink, Van Gool and Dai, "Continual test-time domain adaptation" (CoTTA), 2022, arXiv 2203.13591: the settings
"continual" and "gradual". Opened: test_time.py and conf.py of mariodoebler/test-time-adaptation (Döbler, Marsden and
Yang, "Robust mean teacher", 2023, arXiv 2211.13081), for the order of the corruptions and of the severities. Where we
differ: corruptions are computed on the fly (see `_corruptions`), so any source of images can be corrupted.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import Origins, Source, Stream
from ctrain_jax.streams._assemble import check_source, stack
from ctrain_jax.streams._corruptions import CORRUPTIONS, SEVERITIES, corrupt


class _View(NamedTuple):
    """How the rows of an experience are corrupted."""

    corruption: np.ndarray  # int32 [O], place among the corruptions of the stream
    severity: np.ndarray  # int32 [O], 1 to 5
    seed: np.ndarray  # uint32 [O]


def corrupted(
    source: Source,
    corruptions: Sequence[str] | None = None,
    *,
    severity: int = 5,
    order: str = "continual",
    seed: int = 0,
) -> Stream:
    """The test split of a source arrives once for each corruption, without labels, and nobody says when it changes.

    For adaptation at test time: `core.make_learner(..., online=True)` predicts and scores each batch before it is
    learned, and `core.run_stream(..., variables=...)` begins with a trained model. The noise of a row is a function of
    the seed, the corruption, the severity and the row's pixels alone: the same in every epoch, buffer and test.

    The corruptions are those of CIFAR-10-C in its order: gaussian_noise, shot_noise, impulse_noise, defocus_blur,
    glass_blur, motion_blur, zoom_blur, snow, frost, fog, brightness, contrast, elastic_transform, pixelate and
    jpeg_compression. Their constants are those of 32 x 32; lengths in pixels grow with the image. Frost is generated
    and not photographed.

    Args:
        source: images `[H, W]`, `[H, W, 1]` or `[H, W, 3]` of at least 8 x 8, uint8 or floats in [0, 1].
        corruptions: names, in the order of their arrival; all fifteen by default.
        severity: of each experience, from 1 to 5; the highest one in a gradual stream.
        order: "continual": an experience for each corruption; "gradual": severities 1, 2, ... up to `severity` and down
            again to 1 within a corruption, before the next.
        seed: of the noise.

    Returns:
        A `Stream` with `labels=False` and `boundaries=False` (`stream._replace(labels=True)` gives labels to a learner
        that needs them). The training and the test rows are those of `source.test`; the t-th test experience is the
        t-th corruption at `severity`.

    Raises:
        ValueError: inputs that are not such images, or an argument that is not one of the above.
        TypeError: not a source.

    Example:
        >>> from ctrain_jax import streams
        >>> stream = corrupted(streams.digits(), ["fog", "contrast"], severity=3, order="gradual")
        >>> stream.origins.view.severity.tolist(), stream.experiences["train"].size[:2].tolist()
        ([1, 2, 3, 2, 1, 1, 2, 3, 2, 1], [360, 360])

    References:
        Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, 2019,
        arXiv:1903.12261. Wang et al., Continual test-time domain adaptation, 2022, arXiv:2203.13591.
    """
    names = list(CORRUPTIONS) if corruptions is None else corruptions
    _check(source, names, severity, order, seed)
    up = list(range(1, severity + 1))
    severities = [severity] if order == "continual" else up + up[-2::-1]
    count, peak = len(names) * len(severities), severities.index(severity)
    check_source("corrupted", source, count)
    rows = np.arange(len(source.test["labels"]))

    def experiences(split: str, origins: np.ndarray):
        everything = np.ones((len(origins), source.num_classes), bool)
        return stack(split, [rows] * len(origins), [np.full(len(rows), o) for o in origins], everything)

    view = _View(
        corruption=np.repeat(np.arange(len(names), dtype=np.int32), len(severities)),
        severity=np.tile(np.asarray(severities, np.int32), len(names)),
        seed=np.full(count, seed, np.uint32),
    )
    origins = np.arange(count, dtype=np.int32)
    known: dict[str, Any] = {"task": origins, "classes": np.ones((count, source.num_classes), bool)}
    return Stream(
        name=f"{source.name}_corrupted",
        source=source._replace(train=source.test),
        experiences={
            "train": experiences("train", origins),
            "test": experiences("test", origins[peak :: len(severities)]),
        },
        origins=Origins(**known, view=view),
        view_fn=_make_view(tuple(names)),
        labels=False,
        boundaries=False,
    )


def _check(source: Source, names: Sequence[str], severity: int, order: str, seed: int) -> None:
    check_source("corrupted", source, 1)
    shape, dtype = source.test["inputs"].shape[1:], source.test["inputs"].dtype
    if len(shape) not in (2, 3) or min(shape[:2]) < 8 or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise ValueError(
            f"corrupted: inputs must be images [H, W], [H, W, 1] or [H, W, 3] of at least 8 x 8, got shape {shape}; "
            "reshape or pad them."
        )
    if dtype != np.uint8:
        values = source.test["inputs"][:]
        if dtype.kind != "f" or values.min() < 0 or values.max() > 1:
            raise ValueError(
                f"corrupted: inputs must be uint8, or floats in [0, 1], got {dtype} from {values.min()} to "
                f"{values.max()}; bring them there and give the source a mean and std."
            )
    unknown = [name for name in names if name not in CORRUPTIONS]
    if isinstance(names, str) or unknown or not names:
        raise ValueError(
            f"corrupted: corruptions must be a sequence of some of {', '.join(CORRUPTIONS)}, got {names!r}; name at "
            "least one."
        )
    if isinstance(severity, bool) or severity not in range(1, SEVERITIES + 1):
        raise ValueError(f"corrupted: severity must be a whole number from 1 to {SEVERITIES}, got {severity!r}.")
    if order not in ("continual", "gradual"):
        raise ValueError(f"corrupted: order must be 'continual' or 'gradual', got {order!r}; choose one of them.")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"corrupted: seed must be a whole number from 0 to 2**32 - 1, got {seed!r}.")


def _make_view(names: tuple[str, ...]) -> Callable[[jax.Array, _View], jax.Array]:
    """The view of a stream of these corruptions.

    A plain `lax.switch` would compute every corruption for every row, once the rows are mapped over. This one does so
    by its own rule: a corruption runs if some row of the batch asks for it.
    """
    branches = [lambda image, key, severity, name=name: corrupt(image, key, name, severity) for name in names]

    def of_one(image, view):
        return jax.lax.switch(view.corruption, branches, image, _key(image, view, names), view.severity)

    def of_many(axis_size, in_batched, image, view):
        def mapped(x, batched):
            return x if batched else jnp.broadcast_to(x, (axis_size, *jnp.shape(x)))

        image, view = jax.tree.map(mapped, (image, view), tuple(in_batched))
        keys = jax.vmap(lambda i, v: _key(i, v, names))(image, view)
        out = image
        for place, branch in enumerate(branches):
            asked = view.corruption == place

            def run(out, asked=asked, branch=branch):
                new = jax.vmap(branch)(image, keys, view.severity)
                return jnp.where(asked.reshape(-1, *[1] * (image.ndim - 1)), new, out)

            out = jax.lax.cond(asked.any(), run, lambda out: out, out)
        return out, True

    view_fn: Any = jax.custom_batching.custom_vmap(of_one)
    view_fn.def_vmap(of_many)
    return view_fn


def _key(image: jax.Array, view: _View, names: tuple[str, ...]) -> jax.Array:
    """The key of a row's noise: of the seed, the corruption by its name, the severity, and a hash of the pixels."""
    number = jnp.asarray([list(CORRUPTIONS).index(name) for name in names])[view.corruption]
    words = jnp.round(image * 65535).astype(jnp.uint32).ravel()
    odd = jnp.arange(words.size, dtype=jnp.uint32) * jnp.uint32(0x9E3779B2) + jnp.uint32(1)
    words = (words + odd) * odd
    key = jax.random.key(view.seed)
    for word in (number, view.severity, jnp.sum((words ^ (words >> 15)) * jnp.uint32(0x85EBCA6B))):
        key = jax.random.fold_in(key, word)
    return key
