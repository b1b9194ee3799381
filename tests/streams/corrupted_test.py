"""The fifteen corruptions against scipy, pillow and arithmetic; and the stream that is made of them."""

import colorsys
import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage
from PIL import Image

from ctrain_jax import core, models, ops, streams
from ctrain_jax.core._data import fetch_rows
from ctrain_jax.streams import _filters
from ctrain_jax.streams._corruptions import CORRUPTIONS, corrupt

NAMES = list(CORRUPTIONS)
GREY = np.pad(streams.fashion_mnist().test["inputs"][:6], [(0, 0), (2, 2), (2, 2)]) / np.float32(255)
IMAGES = np.stack([0.2 + 0.7 * GREY, 0.9 - 0.6 * GREY, 0.5 * GREY], -1).astype(np.float32)  # no colour is clipped
KEYS = jax.random.split(jax.random.key(0), 6)


_COMPILED = {}


def _run(name, constants, images, keys=KEYS):
    """A corruption of a batch, with constants of any strength; one program for all of them."""
    images, corruption = np.asarray(images, np.float32), CORRUPTIONS[name]
    tables = [corruption.tables(c, *images.shape[1:3]) for c in (*corruption.constants, constants)]
    if name not in _COMPILED:
        _COMPILED[name] = jax.jit(
            lambda images, keys, tables: jax.vmap(lambda i, k: corruption.apply(i, k, *tables))(images, keys)
        )
    return np.asarray(_COMPILED[name](images, keys, [table[-1] for table in _filters.stacked(tables)]))


_MADE = {}


def _made(name):
    """[5, 6, 32, 32, 3], all severities of the images."""
    if name not in _MADE:
        _MADE[name] = np.stack([_run(name, c, IMAGES) for c in CORRUPTIONS[name].constants])
    return _MADE[name]


@pytest.mark.parametrize("name", NAMES)
def test_images_stay_images_and_get_worse(name):
    made = np.clip(_made(name), 0, 1)
    assert np.isfinite(made).all()
    worse = np.sqrt(np.square(made - IMAGES).mean((1, 2, 3, 4)))
    assert worse.min() > 1e-3
    if name not in STRONGER:
        assert (np.diff(worse) > 0).all(), worse


# From one severity to the next, the original weakens a part of these, or cuts a tail that is nothing: one number grows.
STRONGER = {
    "glass_blur": [(0.4, 1, 0), (0.4, 1, 1), (0.4, 1, 2)],
    "motion_blur": [(9, 0.5), (9, 1.0), (9, 2.0), (9, 3.0)],
    "snow": [(0.1, 0.2, 1, least, 8, 3, 0.9) for least in (0.7, 0.6, 0.5, 0.3)],
    "frost": [(1, 0.1), (1, 0.2), (1, 0.3), (1, 0.4)],
    "elastic_transform": [(0.02, 0.04, 0), (0.05, 0.04, 0), (0.1, 0.04, 0), (0.1, 0.04, 0.1)],
}


@pytest.mark.parametrize("name", STRONGER)
def test_images_get_worse_with_each_strength(name):
    worse = [np.sqrt(np.square(np.clip(_run(name, c, IMAGES), 0, 1) - IMAGES).mean()) for c in STRONGER[name]]
    assert (np.diff(worse) > 0).all(), worse


LIMITS = {
    "gaussian_noise": 0.0,
    "shot_noise": 1e8,
    "impulse_noise": 0.0,
    "defocus_blur": (0.0, 0.0),
    "glass_blur": (0.0, 1, 0),
    "motion_blur": (0, 0.0),
    "zoom_blur": np.ones(1),
    "snow": (-9.0, 0.0, 1, 0.5, 3, 1, 1.0),
    "frost": (1.0, 0.0),
    "fog": (0.0, 2.0),
    "brightness": 0.0,
    "contrast": 1.0,
    "elastic_transform": (0.0, 0.1, 0.0),
    "pixelate": 1.0,
}


@pytest.mark.parametrize("name", LIMITS)
def test_nothing_happens_at_the_limit(name):
    np.testing.assert_allclose(_run(name, LIMITS[name], IMAGES), IMAGES, atol=1e-3)


def test_noise_has_its_distribution():
    flat, keys = np.full((4, 96, 96, 3), 0.4, np.float32), KEYS[:4]
    number = flat.size
    noise = (_run("gaussian_noise", 0.08, flat, keys) - flat) / 0.08
    assert abs(noise.mean()) < 4 / np.sqrt(number) and abs(noise.std() - 1) < 4 / np.sqrt(2 * number)
    assert abs((np.abs(noise) < 1).mean() - 0.6827) < 4 * np.sqrt(0.6827 * 0.3173 / number)
    counts = _run("shot_noise", 60, flat, keys) * 60  # Poisson of mean and variance 24
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
    assert abs(counts.mean() - 24) < 4 * np.sqrt(24 / number)
    assert abs(counts.var() / 24 - 1) < 4 * np.sqrt((2 + 1 / 24) / number)
    struck = _run("impulse_noise", 0.06, flat, keys)
    for value in (0.0, 1.0):
        assert abs((struck == value).mean() - 0.03) < 4 * np.sqrt(0.03 * 0.97 / number)
    assert set(np.unique(struck).tolist()) == {0.0, np.float32(0.4), 1.0}


@pytest.mark.parametrize("severity", [3, 5])
def test_defocus_is_a_smoothed_disk(severity):
    radius, sigma = CORRUPTIONS["defocus_blur"].constants[severity - 1]
    kernel = np.zeros((17, 17))
    for y in range(-8, 9):
        for x in range(-8, 9):
            kernel[y + 8, x + 8] = y * y + x * x <= radius * radius
    smooth = np.exp([-1 / (2 * sigma**2), 0, -1 / (2 * sigma**2)])
    for axis in (0, 1):
        kernel = scipy.ndimage.convolve1d(kernel, smooth / smooth.sum(), axis)
    expected = scipy.ndimage.correlate(IMAGES[0], (kernel / kernel.sum())[..., None], mode="mirror")
    np.testing.assert_allclose(_made("defocus_blur")[severity - 1, 0], expected, atol=1e-5)


def test_glass_moves_pixels_to_their_lower_right_and_blurs_them():
    image = np.arange(32 * 32 * 3, dtype=np.float32).reshape(32, 32, 3) / 3072
    images = np.broadcast_to(image, IMAGES.shape)
    moved = _run("glass_blur", (0.05, 1, 1), images)[0]  # a Gaussian of 0.05 is one pixel
    np.testing.assert_array_equal(moved[:2], image[:2])
    np.testing.assert_array_equal(moved[:, :2], image[:, :2])
    taken = np.round((image - moved)[2:, 2:, 0] * 1024).astype(int)
    assert set(np.unique(taken).tolist()) == {0, 1, 32, 33}  # itself, left, above, above left
    blurred = _run("glass_blur", (0.4, 1, 0), images)[0]
    expected = image
    for _ in range(2):
        expected = scipy.ndimage.gaussian_filter(expected, (0.4, 0.4, 0), mode="nearest", truncate=4)
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_motion_blur_is_a_walk_with_a_weight_for_each_step():
    image, degrees, sigma = IMAGES[0], 30.0, 2.5
    expected, total = np.zeros_like(image), 0.0
    for step in range(2 * 9 + 1):
        down = int(np.ceil(step * np.sin(np.pi / 6) - 0.5 - 1e-6))  # half a pixel is not a pixel
        right = int(np.ceil(step * np.cos(np.pi / 6) - 0.5))
        weight = np.exp(-(step**2) / (2 * sigma**2))
        for y in range(32):
            for x in range(32):
                expected[y, x] += weight * image[min(max(y + down, 0), 31), min(max(x + right, 0), 31)]
        total += weight
    got = _filters.moved(jnp.asarray(image), jnp.asarray(_filters.motion_weights(9, sigma)), jnp.float32(degrees))
    np.testing.assert_allclose(got, expected / total, atol=1e-5)


def test_zoom_blur_is_a_mean_of_zooms():
    image, total = IMAGES[0], 2 * IMAGES[0].astype(np.float64)  # as it is, and the zoom 1
    factors = CORRUPTIONS["zoom_blur"].constants[4]
    for factor in factors[1:]:
        size = int(np.ceil(32 / factor))
        top = (32 - size) // 2
        zoomed = scipy.ndimage.zoom(image[top : top + size, top : top + size], (factor, factor, 1), order=1)
        trim = (len(zoomed) - 32) // 2
        total += zoomed[trim : trim + 32, trim : trim + 32]
    np.testing.assert_allclose(_made("zoom_blur")[4, 0], total / (len(factors) + 1), atol=1e-5)


def test_brightness_is_the_value_of_hsv_and_contrast_a_distance_from_the_mean():
    for severity, added in ((1, 0.05), (5, 0.3)):
        got = _made("brightness")[severity - 1, 0, ::5, ::5].reshape(-1, 3)
        for pixel, made in zip(IMAGES[0, ::5, ::5].reshape(-1, 3).tolist(), got, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            np.testing.assert_allclose(made, colorsys.hsv_to_rgb(h, s, min(v + added, 1)), atol=1e-5)
    np.testing.assert_allclose(_run("brightness", 0.3, 0 * IMAGES), 0.3, atol=1e-6)
    mean = IMAGES[2].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(_made("contrast")[4, 2], mean + 0.15 * (IMAGES[2] - mean), atol=1e-5)


@pytest.mark.parametrize("severity", [1, 5])
def test_pixelate_is_what_pillow_does(severity):
    size = int(32 * CORRUPTIONS["pixelate"].constants[severity - 1])
    for c in range(3):
        small = Image.fromarray(IMAGES[1, ..., c]).resize((size, size), Image.Resampling.BOX)
        expected = np.asarray(small.resize((32, 32), Image.Resampling.BOX))
        np.testing.assert_allclose(_made("pixelate")[severity - 1, 1, ..., c], expected, atol=1e-5)


def _jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(file, "JPEG", quality=quality)
    return file


@pytest.mark.parametrize("colour", [True, False])
def test_jpeg_is_what_pillow_does(colour):
    rng = np.random.default_rng(0)
    images = scipy.ndimage.gaussian_filter(rng.random((6, 29, 45, 3)), (0, 2, 2, 0))  # no whole number of blocks
    images = (images - images.min()) / (images.max() - images.min())
    images = np.round(255 * (images if colour else images[..., :1])).astype(np.uint8)
    for quality in (80, 40):
        tables = Image.open(_jpeg(images[0], quality)).quantization
        for table, own in zip(tables.values(), CORRUPTIONS["jpeg_compression"].tables(quality, 8, 8), strict=colour):
            assert own.ravel().tolist() == table
        got = np.clip(_run("jpeg_compression", quality, images / np.float32(255)), 0, 1)
        for image, made in zip(images, got, strict=True):
            expected = np.asarray(Image.open(_jpeg(image, quality))).reshape(image.shape)
            apart = np.abs(255 * made - expected)  # a coefficient that is nearly a half may fall on the other side
            assert apart.mean() < 0.75 and np.quantile(apart, 0.9) < 2


def test_elastic_transform_reads_between_pixels_as_scipy_does():
    rng = np.random.default_rng(0)
    y, x = rng.uniform(-9, 40, (2, 32, 32)).astype(np.float32)
    for mode in ("reflect", "mirror"):
        got = ops.bilinear(jnp.asarray(IMAGES[0]), y, x, mode)
        for c in range(3):
            expected = scipy.ndimage.map_coordinates(IMAGES[0, ..., c], [y, x], order=1, mode=mode)
            np.testing.assert_allclose(got[..., c], expected, atol=1e-4)
    blur = _filters.gaussian_matrix(32, 6.4, 3.0, "reflect")
    field = rng.random(32).astype(np.float32)
    np.testing.assert_allclose(
        blur @ field, scipy.ndimage.gaussian_filter1d(field, 6.4, mode="reflect", truncate=3), atol=1e-5
    )


def test_elastic_transform_moves_three_corners_of_a_square():
    """Without a field it is affine: an image of its own coordinates says from where each pixel was read."""
    coordinates = np.stack(np.meshgrid(np.arange(32), np.arange(32), np.arange(1), indexing="ij")[:2], -1)[:, :, 0]
    image = np.concatenate([coordinates, coordinates[..., :1]], -1) / 31
    made = 31 * _run("elastic_transform", (0, 0, 0.06), np.broadcast_to(image, IMAGES.shape))
    corners = np.array([[26, 26], [6, 26], [6, 6]], float)
    pixels = np.concatenate([coordinates, np.ones((32, 32, 1))], -1)[8:24, 8:24]
    for key, read in zip(KEYS, made[:, 8:24, 8:24, :2], strict=True):
        drawn = jax.random.uniform(jax.random.split(key)[0], (3, 2), minval=-1.0)
        after = np.column_stack([corners + 0.06 * 32 * np.asarray(drawn), np.ones(3)])
        back = np.linalg.solve(after, corners)  # (y, x, 1) after -> (y, x) before
        np.testing.assert_allclose(read, pixels @ back, atol=1e-3)


def test_fog_is_a_fractal_of_means():
    """Noise that decays at once leaves the corners and the first middle: every later point is the mean of four."""
    plasma = jax.jit(jax.vmap(lambda key, decay: _filters.plasma(key, decay, 32), (0, None)))
    clouds = np.asarray(plasma(KEYS, 1e4), np.float64)[0]
    assert clouds.min() == 0 and clouds.max() == 1

    def around(y, x, steps):
        return np.mean([clouds[(y + dy) % 32, (x + dx) % 32] for dy, dx in steps])

    for y in range(32):
        for x in range(32):
            if y % 2 and x % 2:
                mean = around(y, x, [(-1, -1), (-1, 1), (1, -1), (1, 1)])
            elif y % 2 or x % 2:
                mean = around(y, x, [(-1, 0), (1, 0), (0, -1), (0, 1)])
            else:
                continue
            assert abs(clouds[y, x] - mean) < 1e-3
    rough = np.asarray(plasma(KEYS, 2.0))

    def noise(step):  # what the middles of squares have beyond the means of their corners
        corners = sum(np.roll(rough, (dy, dx), (1, 2)) for dy in (-step, step) for dx in (-step, step)) / 4
        return (rough - corners)[:, step :: 2 * step, step :: 2 * step].std()

    assert abs(noise(2) / noise(1) - 2.0**2) < 0.6 and abs(noise(4) / noise(2) - 2.0**2) < 1.0
    white = _run("fog", (1.5, 1e4), np.ones_like(IMAGES))
    np.testing.assert_allclose(white[0, ..., 0], (1 + 1.5 * clouds) / 2.5, atol=1e-4)


def test_snow_falls_on_an_image_that_is_paler():
    kept = 0.8
    flakeless = _run("snow", (-9.0, 0.0, 1, 0.5, 3, 1, kept), IMAGES)
    grey = IMAGES @ np.array([0.299, 0.587, 0.114])
    pale = kept * IMAGES + (1 - kept) * np.maximum(IMAGES, 1.5 * grey[..., None] + 0.5)
    np.testing.assert_allclose(flakeless, pale, atol=1e-5)
    flakes = _run("snow", (0.3, 0.3, 1.25, 0.65, 14, 12, kept), IMAGES) - pale
    np.testing.assert_allclose(flakes, flakes[:, ::-1, ::-1], atol=1e-5)  # each flake falls twice, turned by half
    assert flakes.min() > -1e-5 and 0.05 < flakes.mean() < 0.5


@pytest.mark.parametrize("shape", [(8, 8), (35, 50, 3)])
def test_images_of_any_size(shape):
    image, key = jax.ShapeDtypeStruct(shape, jnp.float32), jax.eval_shape(lambda: jax.random.key(0))
    for name in NAMES:
        assert jax.eval_shape(lambda i, k, name=name: corrupt(i, k, name, 5), image, key).shape == shape


def test_lengths_grow_with_the_image():
    small, large = (CORRUPTIONS["motion_blur"].tables((9, 2.5), n, n)[0] for n in (32, 64))
    assert [len(w) for w in (small, large)] == [2 * 9 + 1, 2 * 18 + 1]
    assert np.abs(small[1] / small[0] - large[2] / large[0]) < 1e-6


SOME = ("gaussian_noise", "contrast", "impulse_noise")


def _fetched(stream, rows, origins):
    data = core.to_device(stream)
    experience = jax.tree.map(lambda x: x[0], data.experiences["train"])
    record = {"row": jnp.asarray(rows, jnp.int32), "experience": jnp.asarray(origins, jnp.int32)}
    return np.asarray(jax.jit(lambda record: fetch_rows(stream, data, experience, record, "train")["inputs"])(record))


def test_a_row_is_corrupted_alike_whenever_it_comes():
    source = streams.digits()
    stream = streams.corrupted(source, SOME, severity=4, seed=7)
    rows, origins = [3, 5, 8, 3, 3, 5, 6, 7, 8], [0, 0, 1, 2, 0, 0, 2, 2, 2]
    got = _fetched(stream, rows, origins)
    np.testing.assert_array_equal(got[[0, 1]], got[[4, 5]])
    images = source.test["inputs"][rows] / np.float32(255)
    noise = got - images
    inside = (got[0] > 0) & (got[0] < 1) & (got[1] > 0) & (got[1] < 1)  # where nothing was clipped
    assert inside.sum() > 5 and np.abs(noise[0] - noise[1])[inside].min() > 1e-4  # each row has noise of its own
    np.testing.assert_allclose(got[2], images[2].mean() + 0.3 * (images[2] - images[2].mean()), atol=1e-6)
    struck = np.abs(noise) > 1e-6
    assert struck[6:].any() and set(got[6:][struck[6:]].tolist()) <= {0.0, 1.0}
    # one row at a time, without the rule for batches; and in a stream of fewer corruptions, at another place
    view = jax.tree.map(lambda x: x[jnp.asarray(origins)], stream.origins.view)
    for i in (0, 2, 3):
        one = stream.view_fn(jnp.asarray(images[i]), jax.tree.map(lambda x, i=i: x[i], view))
        np.testing.assert_allclose(got[i], one, atol=1e-6)
    alone = _fetched(streams.corrupted(source, SOME[2:], severity=4, seed=7), [3], [0])
    np.testing.assert_array_equal(alone[0], got[3])
    other = _fetched(streams.corrupted(source, SOME, severity=4, seed=8), rows[:1], origins[:1])
    assert (other[0] != got[0]).any()


def test_streams_are_continual_or_gradual():
    source = streams.digits()
    stream = streams.corrupted(source)
    view = stream.origins.view
    assert view.corruption.tolist() == list(range(15)) and set(view.severity.tolist()) == {5}
    assert not stream.labels and not stream.boundaries and stream.source.train is source.test
    for split in ("train", "test"):
        e = stream.experiences[split]
        assert e.size.tolist() == [360] * 15 and (e.rows == np.arange(360)).all()
        assert (e.origin == np.arange(15)[:, None]).all() and e.classes.all()
    gradual = streams.corrupted(source, ["fog", "snow"], order="gradual")
    assert gradual.origins.view.severity.tolist() == 2 * [1, 2, 3, 4, 5, 4, 3, 2, 1]
    assert gradual.origins.view.corruption.tolist() == [0] * 9 + [1] * 9
    assert gradual.experiences["test"].origin[:, 0].tolist() == [4, 13]


def test_a_learner_adapts_without_labels_and_is_scored_online():
    stream = streams.corrupted(streams.digits(), ["contrast", "brightness"], severity=2)

    def entropy(outputs, batch):
        assert "labels" not in batch
        p = jax.nn.log_softmax(outputs.logits)
        return -(jnp.exp(p) * p).sum(-1)

    problem = core.Problem(entropy, core.classification().metrics)
    model = core.from_linen(models.MLP(10, hidden=(8,)))
    learner = core.make_learner(
        model, core.identity(), optax.sgd(0.1), stream, problem=problem, batch_size=60, online=True
    )
    ts, data = core.start(learner, 0), core.to_device(stream)
    before = float(jax.jit(learner.evaluate)(ts, data, 0)["accuracy"][1])
    frozen = core.make_learner(
        model, core.identity(), optax.sgd(0.0), stream, problem=problem, batch_size=60, online=True
    )
    _, record = jax.jit(frozen.chunk)(ts, data, 1, 0, 6)
    np.testing.assert_allclose(record["online_accuracy"], before, rtol=1e-5)  # the same rows, in another order
    _, learned = jax.jit(learner.chunk)(ts, data, 1, 0, 6)
    assert learned["loss"] < record["loss"]


FLOATS = streams.arrays(np.full((4, 8, 8), 2.0), [0, 1, 0, 1], np.full((4, 8, 8), 2.0), [0, 1, 0, 1])
SMALL = streams.arrays(np.ones((4, 7, 8)), [0, 1, 0, 1], np.ones((4, 7, 8)), [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: streams.corrupted(SMALL), r"must be images .* got shape \(7, 8\)"),
        (lambda: streams.corrupted(FLOATS), "uint8, or floats in .* got float32 from 2.0 to 2.0"),
        (lambda: streams.corrupted(streams.digits(), ["rain"]), r"some of gaussian_noise, .* got \['rain'\]"),
        (lambda: streams.corrupted(streams.digits(), "fog"), "must be a sequence of some of .* got 'fog'"),
        (lambda: streams.corrupted(streams.digits(), []), "name at least one"),
        (lambda: streams.corrupted(streams.digits(), severity=6), "from 1 to 5, got 6"),
        (lambda: streams.corrupted(streams.digits(), severity=True), "from 1 to 5, got True"),
        (lambda: streams.corrupted(streams.digits(), order="mixed"), "'continual' or 'gradual', got 'mixed'"),
        (lambda: streams.corrupted(streams.digits(), seed=-1), "from 0 to .* got -1"),
    ],
)
def test_refuses_in_one_sentence(build, says):
    with pytest.raises(ValueError, match=says) as caught:
        build()
    assert "\n" not in str(caught.value)
