"""Data augmentation: each training pass of a chain sees the images anew.

Padded crops and flips: He et al., "Deep Residual Learning", 2015, arXiv 1512.03385. Colours: Chen et al., SimCLR, 2020,
arXiv 2002.05709. RandAugment: Cubuk et al., 2019, arXiv 1909.13719. mixup: Zhang et al., 2017, arXiv 1710.09412.
CutMix: Yun et al., 2019, arXiv 1905.04899. The operations are those of `ctrain_jax.ops`, which say what was opened at
the source and where they differ from it.

The passes are those of aimagelab/mammoth (opened: models/der.py, derpp.py, er_ace.py, lwf.py, icarl.py;
utils/buffer.py): memories keep rows as they came, each draw from one is augmented anew, `der` keeps the logits of the
augmented image, and the teacher of `lwf` is asked about the image as it came. Where we differ: so is every teacher but
that of `prd`, where iCaRL's there sees the augmented image; and a mixture is moved as one image, where the papers'
codes mix images that were moved each by itself, so that a crop may cut from a box of CutMix what the targets still
count.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ctrain_jax import ops
from ctrain_jax.core import Batch, Context, Method, Model, tag


class AugmentationState(NamedTuple):
    """Of mixtures alone; None where one is off."""

    mixup: jax.Array | None  # float32 [], alpha
    cutmix: jax.Array | None  # float32 [], alpha


def augmentation(
    *,
    crop: int = 4,
    flip: bool = True,
    color: float = 0.0,
    rand_augment: int = 0,
    magnitude: float = 9.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
) -> Method:
    r"""Show images anew in every training pass, each in a draw of its own: crop, flip, RandAugment, colours, mixture.

    All but the mixtures wrap `Model.apply`: with `train=True` the inputs are augmented with a key folded from `rng`,
    which the model is given as well, and without nothing happens. So rows that a method replays in a pass of its own
    are augmented as the incoming ones are, wherever in the chain this method stands; tests, herding, Fisher
    information, prototypes and teachers see images as they came, and memories, which store row numbers, keep them so.
    SAM's two gradients are of the same augmented images.

    A mixture writes the soft :math:`y = \lambda e_{y_i} + (1 - \lambda) e_{y_j}` into the `targets` of the batch, and
    where heads are restricted a row is told apart from the classes of both. Rows of weight 0 are not mixed, nor are
    those of a pass of its own (`der`, `derpp`, `er_ace`). It comes after methods that append rows; `der` and `derpp`
    would keep the logits of a mixture as those of its row.

    Online accuracy is that of the rows as they came. The accuracy recorded in training is that of augmented rows; of a
    mixture, how often the answer is the class of its larger share, which is the row's own. Where it helps and where it
    does harm: see the evidence.

    Args:
      crop: pixels by which an image may move along each axis, with black behind it; 0 for none.
      flip: whether half of the images are mirrored left to right; not for digits.
      color: strength :math:`s` of brightness and contrast, factors of :math:`U[1 - s, 1 + s]`, and of images of three
        channels of saturation and, by a quarter of it, hue (SimCLR has 0.8); 0 for none.
      rand_augment: operations drawn for each image, 1 to 3; 0 for none.
      magnitude: of these, 0 to 10.
      mixup: alpha, 1 for CIFAR in the paper; 0 for none.
      cutmix: alpha, 1 in the paper; 0 for none. With `mixup`, each row takes one of the two at random.
      mean: of the source, where it has one: images are brought to [0, 1] and back, since inputs do not say their
        range. Without, they are taken to be in [0, 1]: a crop fills with 0, colours clip.
      std: of the source, where it has one.

    Returns:
      The method. A training pass without `rng` is refused: it would be of images as they came, without a word.

    Raises:
      ValueError: a negative strength, a `magnitude` above 10; when traced, inputs that are no images, `train=True`
        without `rng`, or mixtures where rows have no class each or the problem does not read `targets`.

    Example:
      >>> augmentation(crop=2, mixup=0.2).needs
      ('classes',)
    """
    if crop != 0:
        ops.check_size("crop", crop)
    if rand_augment != 0:
        ops.check_size("rand_augment", rand_augment)
    ops.check_non_negative("color", color)
    ops.check_fraction("magnitude / 10", magnitude / 10)
    ops.check_non_negative("mixup", mixup)
    ops.check_non_negative("cutmix", cutmix)
    if std is not None:
        ops.check_positive("std", std)

    def model(inner):
        def apply(variables, inputs, *, train=False, rng=None, task=None):
            if train:
                if rng is None:
                    raise ValueError(
                        "augmentation expects rng where train=True, got none: pass rng=ctx.rng to the forward pass, or "
                        "train=False for images as they came."
                    )
                inputs = seen_anew(tag(rng, "augmentation"), inputs)
            return inner.apply(variables, inputs, train=train, rng=rng, task=task)

        return Model(inner.init, apply)

    def seen_anew(rng, inputs):
        if inputs.ndim not in (3, 4):
            raise ValueError(
                f"augmentation expects images [B, H, W] or [B, H, W, C], got shape {inputs.shape}: leave crop, flip, "
                "color and rand_augment off."
            )
        shift, scale = (jnp.asarray(d if m is None else m, inputs.dtype) for m, d in ((mean, 0.0), (std, 1.0)))
        images = inputs * scale + shift
        images = images if images.ndim == 4 else images[..., None]
        if crop != 0:
            images = ops.random_crop(tag(rng, "crop"), images, crop)
        if flip:
            images = ops.random_flip(tag(rng, "flip"), images)
        if rand_augment != 0:
            images = ops.rand_augment(tag(rng, "rand_augment"), images, rand_augment, magnitude)
        if color != 0:
            strengths = {"brightness": color, "contrast": color}
            if images.shape[-1] == 3:
                strengths |= {"saturation": color, "hue": color / 4}
            images = ops.color_jitter(tag(rng, "color"), images, **strengths)
        return (images.reshape(inputs.shape) - shift) / scale

    def init(rng, params, ctx):
        return AugmentationState(*(jnp.asarray(a, jnp.float32) if a != 0 else None for a in (mixup, cutmix)))

    method = Method("augmentation")
    if crop != 0 or flip or color != 0 or rand_augment != 0:
        method = method._replace(model=model)
    if mixup != 0 or cutmix != 0:
        method = method._replace(init=init, augment=_mixed, needs=("classes",))
    return method


def _mixed(s: AugmentationState, batch: Batch, ctx: Context) -> Batch:
    """A batch whose rows are mixtures, with their soft targets."""
    num = ctx.spec.num_classes
    targets = batch["targets"] if "targets" in batch else jax.nn.one_hot(batch["labels"], num)
    if not _reads_targets(ctx, batch, targets):
        raise ValueError(
            "augmentation mixes rows, and the problem does not read their soft targets: leave mixup and cutmix at 0, "
            'or let its loss read batch["targets"].'
        )
    # The classes of both rows are those that were mixed with a share.
    told = [batch["classes"].astype(targets.dtype)] if "classes" in batch else []
    start = batch["inputs"], jnp.concatenate([targets, *told], -1)
    results = [
        function(tag(ctx.rng, function.__name__), *start, alpha, weights=batch["weights"])
        for function, alpha in ((ops.mixup, s.mixup), (ops.cutmix, s.cutmix))
        if alpha is not None
    ]
    inputs, both = results[0]
    if len(results) == 2:
        first = jax.random.bernoulli(tag(ctx.rng, "either"), shape=batch["weights"].shape)
        inputs, both = (
            jnp.where(first.reshape(-1, *(1,) * (one.ndim - 1)), one, other)
            for one, other in zip(*results, strict=True)
        )
    fields = {"inputs": inputs, "targets": both[:, :num]}
    return batch | fields | ({"classes": both[:, num:] > 0} if told else {})


def _reads_targets(ctx: Context, batch: Batch, targets: jax.Array) -> bool:
    """Whether the problem's loss depends on the targets of a batch."""
    rows = targets.shape[0]

    def longer(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *x.shape[1:]) if x.ndim else x.shape, x.dtype)

    def loss(targets: jax.Array, outputs: Any) -> jax.Array:
        return ctx.problem.loss(outputs, batch | {"targets": targets})

    jaxpr = jax.make_jaxpr(loss)(targets, jax.tree.map(longer, ctx.spec.outputs)).jaxpr
    return any(jaxpr.invars[0] is variable for equation in jaxpr.eqns for variable in equation.invars)
