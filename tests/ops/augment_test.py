"""Augmentations against Pillow, colorsys and numpy, row by row."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ctrain_jax import ops
from ctrain_jax.ops._augment import turn_hue
from ctrain_jax.ops._rand_augment import MOVES, OPERATIONS, apply

KEY = jax.random.key(0)


@functools.cache
def picture(channels=3, side=40):
    """Bytes [H, W, C] that are smooth, with an edge and some noise, and have no level of 0 or 255."""
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(5 * y + k) * np.cos(4 * x - k) for k in range(channels)]
    image = np.stack(waves, -1) * 0.3 + 0.45 + 0.12 * (x + y > 1.2)[..., None]
    image += np.random.default_rng(0).uniform(-0.12, 0.12, size=image.shape)
    return np.round(255 * image).astype(np.uint8)


def floats(image):
    return image.astype(np.float32) / 255


def test_a_crop_is_a_window_of_the_padded_image_and_each_window_comes_as_often():
    image, padding = np.random.default_rng(0).uniform(size=(4, 5, 2)).astype(np.float32), 1
    cropped = np.asarray(jax.jit(ops.random_crop, static_argnums=2)(KEY, jnp.stack([image] * 900), padding))
    padded = np.zeros((6, 7, 2), np.float32)
    padded[1:-1, 1:-1] = image
    windows = np.stack([padded[y : y + 4, x : x + 5] for y in range(3) for x in range(3)])
    found = (cropped[:, None] == windows).all((2, 3, 4))
    assert (found.sum(1) == 1).all()
    assert (np.abs(found.sum(0) - 100) < 50).all()  # five standard deviations


def test_half_of_the_images_are_mirrored():
    images = np.random.default_rng(0).uniform(size=(400, 3, 4, 1)).astype(np.float32)
    flipped = np.asarray(ops.random_flip(KEY, jnp.asarray(images)))
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal(flipped[~mirrored], images[~mirrored])
    assert abs(mirrored.sum() - 200) < 50


def jittered(images, **strengths):
    return np.asarray(jax.jit(lambda x: ops.color_jitter(KEY, x, **strengths))(images))


ENHANCE = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color}


@pytest.mark.parametrize("name", ENHANCE)
def test_a_colour_is_that_of_pillow_with_a_factor_for_each_row(name):
    images = jnp.stack([floats(picture())] * 60)
    changed = np.asarray(jittered(images, **{name: 0.1}), np.float64)
    moved, enhance = changed - np.asarray(images), ENHANCE[name](Image.fromarray(picture()))
    away = floats(np.asarray(enhance.enhance(1.1))) - np.asarray(images[0])
    factors = 1 + 0.1 * (moved * away).sum((1, 2, 3)) / np.square(away).sum()
    assert factors.min() > 0.89 and factors.max() < 1.11 and abs(factors.mean() - 1) < 0.05 and factors.std() > 0.03
    for factor, row in zip(factors[:5], changed[:5], strict=True):
        np.testing.assert_allclose(row, floats(np.asarray(enhance.enhance(factor))), atol=2.5 / 255)


def test_a_hue_turns_as_in_colorsys_and_each_row_by_its_own():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(4, 3, 3, 3)).astype(np.float32)
    images[0, 0] = [[0.5, 0.5, 0.5], [1, 0, 0], [0, 0, 0]]  # colours that have no hue, or two largest channels
    turns = np.array([0.0, 0.3, -0.45, 0.9], np.float32)

    def by_hand(pixel, turn):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)

    expected = [[[by_hand(p, t) for p in line] for line in image] for image, t in zip(images, turns, strict=True)]
    np.testing.assert_allclose(turn_hue(jnp.asarray(images), jnp.asarray(turns)), expected, atol=1e-5)
    red = jittered(np.broadcast_to(np.float32([1, 0, 0]), (300, 1, 1, 3)), hue=0.1).reshape(300, 3)
    hues = (np.array([colorsys.rgb_to_hsv(*p)[0] for p in red.tolist()]) + 0.5) % 1 - 0.5
    assert -0.1 <= hues.min() < -0.09 and 0.09 < hues.max() <= 0.1 and abs(hues.mean()) < 0.02


def test_strengths_of_zero_change_nothing_and_grey_images_have_brightness_and_contrast():
    images = np.random.default_rng(0).uniform(0.3, 0.6, size=(200, 2, 2, 1)).astype(np.float32)
    assert ops.color_jitter(KEY, images) is images
    bright = jittered(images, brightness=2.0)  # a factor in [0, 3]
    factor = (bright / images)[bright.max((1, 2, 3)) < 1]
    np.testing.assert_allclose(factor.min((1, 2, 3)), factor.max((1, 2, 3)), rtol=1e-5)
    assert factor.min() < 0.1 and bright.max() == 1 and (bright == 1).all((1, 2, 3)).any()
    changed = jittered(images, contrast=0.2)
    np.testing.assert_allclose(changed.mean((1, 2, 3)), images.mean((1, 2, 3)), rtol=1e-5)
    assert (np.abs(changed - images).max((1, 2, 3)) > 0).all()


def affine(image, *coefficients):
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


def pillow(name, m, side):
    """Pillow's image [H, W, C] of an operation at strength m, and the pixels to compare."""
    image, inside = Image.fromarray(picture()), np.s_[1:-1, 1:-1]
    made = {
        "identity": lambda: image,
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "solarize": lambda: ImageOps.solarize(image, 256 * (1 - abs(m))),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(4 * abs(m))),
        "color": lambda: ImageEnhance.Color(image).enhance(1 + 0.9 * m),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(1 + 0.9 * m),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(1 + 0.9 * m),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * m),
        "rotate": lambda: image.rotate(30 * m, Image.Resampling.BILINEAR),
        "shear_x": lambda: affine(image, 1, 0.3 * m, 0, 0, 1, 0),
        "shear_y": lambda: affine(image, 1, 0, 0, 0.3 * m, 1, 0),
        "translate_x": lambda: affine(image, 1, 0, 150 / 331 * side * m, 0, 1, 0),
        "translate_y": lambda: affine(image, 1, 0, 0, 0, 1, 150 / 331 * side * m),
    }[name]()
    return floats(np.asarray(made)), inside if name in MOVES else np.s_[:, :]


@functools.cache
def all_operations():
    """[28, H, W, C]: every operation at the strengths 0.7 and -0.7."""
    op = jnp.arange(2 * len(OPERATIONS)) % len(OPERATIONS)
    strength = jnp.where(jnp.arange(2 * len(OPERATIONS)) < len(OPERATIONS), 0.7, -0.7)
    images = jnp.stack([floats(picture())] * 2 * len(OPERATIONS))
    return np.asarray(jax.jit(lambda *a: apply(*a, list(OPERATIONS)))(images, op, strength))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_that_of_pillow(name):
    for k, m in enumerate((0.7, -0.7)):
        row = all_operations()[k * len(OPERATIONS) + OPERATIONS.index(name)]
        expected, where = pillow(name, m, 40)
        difference = np.abs(row - expected)[where]
        if name in MOVES:
            # At the border of what came from outside Pillow repeats a pixel, where we go to black.
            black = (row == 0).all(-1) | (expected == 0).all(-1)
            border = np.asarray(Image.fromarray(black).convert("L").filter(_grow())) > 0
            assert black.any() and border.mean() < 0.7
            difference = np.abs(row - expected)[~border]
        exact = name in ("identity", "equalize", "posterize", "solarize")
        assert difference.max() < (1e-6 if exact else 1.5 / 255), name
        assert name == "identity" or np.abs(row - floats(picture())).max() > 4 / 255


def _grow():
    from PIL import ImageFilter

    return ImageFilter.MaxFilter(5)


def test_each_row_draws_an_operation_and_a_sign_and_all_are_drawn_mapped_over_keys_and_magnitudes():
    images, keys = jnp.stack([floats(picture())] * 140), jax.random.split(KEY, 2)
    mapped = jax.jit(jax.vmap(lambda key, x, magnitude: ops.rand_augment(key, x, 1, magnitude), (0, None, 0)))
    rows = np.asarray(mapped(keys, images, jnp.array([7.0, 7.0]))).reshape(280, 40, 40, 3)
    thin = np.s_[:, ::5, ::5]
    near = np.abs(rows[thin][:, None] - all_operations()[thin]).reshape(280, 28, -1).max(-1) < 1e-5
    assert near.any(1).all()
    first = near[:, :14] | near[:, 14:]
    assert (np.abs(first.sum(0) - 20) < 20).all()  # more than four standard deviations
    signed = [OPERATIONS.index(n) for n in ("rotate", "color", "shear_x", "translate_y")]
    assert near[:, signed].any(0).all() and near[:, [14 + i for i in signed]].any(0).all()


def test_magnitude_zero_leaves_all_but_the_stretched_of_two_draws():
    images = jnp.stack([floats(picture(1, 16))] * 400)
    rows = jax.jit(ops.rand_augment, static_argnums=2)(KEY, images, 2, 0.0)
    image = Image.fromarray(picture(1, 16)[..., 0])
    results = [image, ImageOps.equalize(image), ImageOps.autocontrast(image)]
    results += [ImageOps.autocontrast(results[1]), ImageOps.equalize(results[2])]
    far = [np.abs(rows[..., 0] - floats(np.asarray(r))).max((1, 2)) for r in results]
    assert (np.min(far, 0) < 2.5 / 255).all()
    # Eleven of thirteen leave an image, and two draws of them: 0.716, where one draw has 0.846.
    assert 0.65 < (far[0] < 1e-6).mean() < 0.78


WEIGHTS = np.array([1, 0, 1, 2, 1, 0, 1, 1], np.float32)
SHARES = jnp.eye(8)  # targets that say what a mixture is made of


@functools.cache
def compiled(function):
    def many(inputs, weights):
        return jax.vmap(lambda key: function(key, inputs, SHARES, 1.0, weights=weights))(jax.random.split(KEY, 200))

    return jax.jit(many)


def mixtures(function, inputs, weights):
    return map(np.asarray, compiled(function)(inputs, weights))


def check_shares(shares):
    """The ring: real rows meet one other real row, are met by one, and keep the larger part of themselves."""
    real = WEIGHTS > 0
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(shares[:, ~real], np.broadcast_to(np.eye(8)[~real], (len(shares), 2, 8)))
    assert (shares[:, real][:, :, ~real] == 0).all(), "padding enters no real row"
    assert (shares[:, range(8), range(8)] >= 0.5).all()
    met = (shares > 0) & ~np.eye(8, dtype=bool)
    assert (met.sum(-1) <= 1).all() and (met.sum(-2) <= 1).all()
    assert (met[:, real].sum(-1) == 1).mean() > 0.9  # CutMix may draw an empty box
    pairs = met.sum(0)[np.ix_(real, real)]
    assert (pairs[~np.eye(6, dtype=bool)] > 10).all(), "each meets each"


def test_mixup_is_the_mean_that_its_targets_say_and_padding_stays_out():
    inputs = np.random.default_rng(0).normal(size=(8, 12, 10, 1)).astype(np.float32)
    mixed, shares = mixtures(ops.mixup, inputs, WEIGHTS)
    check_shares(shares)
    np.testing.assert_allclose(mixed, np.einsum("sij,jklm->siklm", shares, inputs), atol=1e-6)
    np.testing.assert_array_equal(mixed[:, WEIGHTS == 0], np.broadcast_to(inputs[WEIGHTS == 0], (200, 2, 12, 10, 1)))
    own = np.sort(shares[:, WEIGHTS > 0][:, range(6), np.flatnonzero(WEIGHTS)].ravel())
    # alpha = 1: uniform in [1/2, 1]; the largest distance of 1200 draws (Kolmogorov) at one in a thousand is 0.056.
    assert np.abs((own - 0.5) * 2 - (np.arange(own.size) + 0.5) / own.size).max() < 0.06


def test_cutmix_is_a_box_of_the_area_that_its_targets_say_and_padding_stays_out():
    inputs = np.broadcast_to(np.arange(8.0, dtype=np.float32)[:, None, None, None], (8, 12, 10, 1))
    mixed, shares = mixtures(ops.cutmix, inputs, WEIGHTS)
    check_shares(shares)
    is_of = mixed[..., 0][:, :, None] == np.arange(8.0)[:, None, None]
    np.testing.assert_allclose(is_of.mean((-1, -2)), shares, atol=1e-6)
    kinds = {"box": 0, "rest": 0}
    for image, row in zip(mixed[:50].reshape(-1, 12, 10), np.tile(np.arange(8), 50), strict=True):
        other = image != row
        for name, part in (("box", other), ("rest", ~other)):
            y, x = np.nonzero(part)
            if other.any() and y.size and np.ptp(y) + 1 < 12 and (np.ptp(y) + 1) * (np.ptp(x) + 1) == y.size:
                kinds[name] += 1
                break
        else:
            assert not other.any() or _is_stripe(other), "neither a box nor all around one"
    assert kinds["box"] > 50 and kinds["rest"] > 5
    areas = np.asarray([1 - max(a, 1 - a) for a in boxes(np.random.default_rng(0), 4000, 12, 10)])
    ours = 1 - shares[:, WEIGHTS > 0][:, range(6), np.flatnonzero(WEIGHTS)]
    error = np.sqrt(areas.var() / areas.size + ours.var() / ours.size)
    assert abs(ours.mean() - areas.mean()) < 5 * error


def _is_stripe(part):
    """A box over a whole side, whose rest is one as well."""
    y, x = np.nonzero(part)
    return (np.ptp(y) + 1) * (np.ptp(x) + 1) == y.size


def boxes(rng, num, height, width):
    """Areas of the boxes of the paper, in numpy."""
    for _ in range(num):
        cut = np.sqrt(1 - rng.beta(1.0, 1.0))
        edges = []
        for side in (height, width):
            centre, half = rng.integers(side), int(side * cut) // 2
            edges.append(min(centre + half, side) - max(centre - half, 0))
        yield edges[0] * edges[1] / (height * width)


@pytest.mark.parametrize("function", [ops.mixup, ops.cutmix])
def test_a_lone_row_and_a_batch_of_padding_stay_as_they_are(function):
    inputs = np.random.default_rng(0).normal(size=(8, 12, 10, 1)).astype(np.float32)
    for weights in (np.zeros(8, np.float32), np.eye(8, dtype=np.float32)[3]):
        mixed, shares = mixtures(function, inputs, weights)
        np.testing.assert_array_equal(mixed, np.broadcast_to(inputs, mixed.shape))
        np.testing.assert_array_equal(shares, np.broadcast_to(SHARES, shares.shape))


def test_reading_between_pixels_is_the_mean_of_four_and_zero_outside():
    image = np.random.default_rng(0).uniform(size=(5, 6, 2)).astype(np.float32)
    y, x = np.array([1.25, 3.0, -0.5, 9.0]), np.array([2.5, 0.0, 2.0, 1.0])
    expected = [
        0.75 * image[1, 2:4].mean(0) + 0.25 * image[2, 2:4].mean(0),
        image[3, 0],
        0.5 * image[0, 2],
        [0.0, 0.0],
    ]
    np.testing.assert_allclose(ops.bilinear(jnp.asarray(image), jnp.asarray(y), jnp.asarray(x)), expected, atol=1e-6)


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda x: ops.random_crop(KEY, x, 0), "padding expects a whole number of at least 1, got 0"),
        (lambda x: ops.random_flip(KEY, x[0]), r"random_flip expects images \[B, H, W, C\] of floats in \[0, 1\]"),
        (lambda x: ops.random_flip(KEY, x.astype(jnp.uint8)), "divide bytes by 255"),
        (lambda x: ops.color_jitter(KEY, x, hue=0.1), r"hue need images of 3 channels \(RGB\), got 1: leave it at 0"),
        (lambda x: ops.color_jitter(KEY, x, hue=0.1, saturation=0.1), "hue and saturation need images of 3 channels"),
        (lambda x: ops.color_jitter(KEY, x, contrast=-0.1), "contrast must be 0 or above"),
        (lambda x: ops.rand_augment(KEY, x, 0), "num_ops expects a whole number of at least 1, got 0"),
        (lambda x: ops.rand_augment(KEY, x, 1, 11.0), "magnitude / 10 must be between 0 and 1"),
        (lambda x: ops.mixup(KEY, x, jnp.zeros(2)), r"mixup expects a target \[B, C\] for each of 2 rows"),
        (lambda x: ops.mixup(KEY, x, jnp.eye(2), 0.0), "alpha must be above 0"),
        (lambda x: ops.cutmix(KEY, jnp.zeros((2, 3)), jnp.eye(2)), r"got shape \(2, 3\): use mixup"),
    ],
)
def test_what_they_refuse(call, match):
    with pytest.raises(ValueError, match=match):
        call(jnp.ones((2, 4, 4, 1)))
