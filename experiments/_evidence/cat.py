"""CAT: networks trained apart, and their probe, exactly; five digits from twenty rows each, after five others."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.linear_model import Ridge

from ctrain_jax import continual, core, models, streams, testing
from ctrain_jax.continual.representation import _cat
from experiments._evidence._common import Check, Claim, distance, estimate, final, gate, handwritten, means, runs

ROWS, TESTS, SHOTS = 2_500, 2_000, 20
NUM, WIDTHS = 4, (4, 8, 16)
GAMMAS = 10.0 ** np.arange(-3, 3)  # the best on SHOTS other rows of each class


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.cat`."""
    source = handwritten(data_dir, ROWS)
    source = source._replace(test={name: leaf[:TESTS] for name, leaf in source.test.items()})
    stream = streams.few_shot_class_incremental(source, 2, base_classes=5, shots=SHOTS)

    def model(times):
        return core.from_linen(models.CNN(10, widths=tuple(times * width for width in WIDTHS)))

    def measured(method, times=1):
        learner = core.make_learner(model(times), method, optax.adam(1e-3), stream, batch_size=32, epochs=4)
        return runs(learner, seeds)

    joined = measured(continual.cat(NUM))
    of_four, of_two, of_wide = (
        _features(model(k), joined if k == 1 else measured(continual.cat(1), k), source) for k in (1, 2, NUM)
    )
    alone = [_few(of_four[:, k : k + 1], source, seeds) for k in range(NUM)]
    known = [_all(of_four[:, k : k + 1], source) for k in range(NUM)]
    few = {
        "single": np.mean(alone, 0),
        "twice": _few(of_two, source, seeds),
        "wide": _few(of_wide, source, seeds),
        "distilled": _few(_distilled(model(1), of_four, source, seeds), source, seeds),
        "cat": _few(of_four, source, seeds),
    }
    base = {"single": np.mean(known, 0), "cat": _all(of_four, source)}
    naive, er, cat = final(measured(core.identity())), final(measured(continual.er(200))), final(joined)
    where = f"{source.name} ({len(source.train['labels'])} rows), {NUM} CNNs trained on digits 0 to 4"
    apart = f"the same: probe of digits 5 to 9, {SHOTS} rows each: points of accuracy above"
    return [
        gate("each network of three is what it is alone (largest difference of a parameter)", _apart(), most=1e-6),
        gate("float64: the probe is scikit-learn's ridge regression (largest difference)", _closed(), most=1e-8),
        gate("float64: three equal networks answer as one (largest difference of a logit)", _equal(), most=1e-8),
        estimate(
            f"{where}: probe of these: points of accuracy above one of them ({means(**base)})",
            base["cat"] - base["single"],
            most=1,
        ),
        estimate(f"{apart} one of them ({means(**few)})", few["cat"] - few["single"], least=2),
        estimate(f"{apart} one network of as many parameters, twice as wide", few["cat"] - few["twice"], least=1),
        estimate(f"{apart} one network {NUM} times as wide", few["cat"] - few["wide"], least=1),
        estimate(
            f"the same of a network of the size of one, trained on the features of all (DISTILL_{NUM}): above one",
            few["distilled"] - few["single"],
            least=0,
        ),
        estimate(
            "digits 5 to 9 as a second experience of these rows: points of final accuracy above naive "
            f"({means(naive=naive, er=er, cat=cat)})",
            cat - naive,
            least=10,
        ),
        estimate("the same: above er with 200 rows", cat - er, least=0),
    ]


def _features(model: core.Model, result: core.Result, source: core.Source) -> np.ndarray:
    """Features `[S, n, rows, D]` of the training rows and, after them, of the test rows."""
    images = jnp.asarray(np.concatenate([source.train["inputs"], source.test["inputs"]]))
    parts = images.reshape(-1, 500, *images.shape[1:])

    def one(variables):
        found = jax.lax.map(lambda x: model.apply(variables, x / 255.0)[0].features, parts)
        return found.reshape(len(images), -1)

    variables = core.Variables(result.state.params, result.state.model_state)
    return np.asarray(jax.jit(core.mapped(core.mapped(one)))(variables))


def _side_by_side(features: np.ndarray) -> np.ndarray:
    """`[S, n, rows, D]` as `[S, rows, n D]`."""
    return np.moveaxis(features, 1, 2).reshape(len(features), features.shape[2], -1)


def _accuracy(train: np.ndarray, labels: np.ndarray, test: np.ndarray, answers: np.ndarray, gamma: float) -> float:
    rows = np.asarray(_cat.with_one(jnp.asarray(train)))
    head = _cat.probe(rows.T @ rows, rows.T @ np.eye(10, dtype=np.float32)[labels], gamma)
    return 100 * float(np.mean(np.asarray(head(test)).argmax(-1) == answers))


def _split(source: core.Source, known: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of all rows, and the numbers of the training and the test rows of the digits below 5, or of the others."""
    labels = np.concatenate([source.train["labels"], source.test["labels"]])
    ours, first = (labels < 5) == known, np.arange(len(labels)) < len(source.train["labels"])
    return labels, np.flatnonzero(ours & first), np.flatnonzero(ours & ~first)


def _all(features: np.ndarray, source: core.Source) -> np.ndarray:
    """Accuracy `[S]` of the probe of the first five digits from all their rows, ridge 1 for each network."""
    labels, train, test = _split(source, True)
    gamma = float(features.shape[1])
    return np.array([_accuracy(x[train], labels[train], x[test], labels[test], gamma) for x in _side_by_side(features)])


def _few(features: np.ndarray, source: core.Source, seeds: Sequence[int]) -> np.ndarray:
    """Accuracy `[S]` of the probe of the other digits from a few rows of each, drawn for each seed."""
    labels, train, test = _split(source, False)
    found = []
    for seed, x in zip(seeds, _side_by_side(features), strict=True):
        order = np.random.default_rng(seed).permutation(train)
        each = np.stack([order[labels[order] == c][: 2 * SHOTS] for c in range(5, 10)])
        rows, held_out = each[:, :SHOTS].ravel(), each[:, SHOTS:].ravel()
        scores = [_accuracy(x[rows], labels[rows], x[held_out], labels[held_out], gamma) for gamma in GAMMAS]
        gamma = GAMMAS[int(np.argmax(scores))]
        found.append(_accuracy(x[rows], labels[rows], x[test], labels[test], gamma))
    return np.array(found)


def _distilled(model: core.Model, features: np.ndarray, source: core.Source, seeds: Sequence[int]) -> np.ndarray:
    """Features `[S, 1, rows, D]` of a network that was trained on the first five digits to predict those of all."""
    _, train, test = _split(source, True)
    images = np.concatenate([source.train["inputs"], source.test["inputs"]])
    joined = _side_by_side(features)
    known = joined[:, train]
    joined = (joined - known.mean(1, keepdims=True)) / np.maximum(known.std(1, keepdims=True), 1e-3)
    student = core.from_linen(models.CNN(joined.shape[-1], widths=WIDTHS))
    sources = [streams.arrays(images[train], x[train], images[test[:1]], x[test[:1]]) for x in joined]
    each = [streams.permuted(s, 1) for s in sources]
    learner = core.make_learner(student, core.identity(), optax.adam(1e-3), each[0], batch_size=32, epochs=10)
    data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(core.to_device, each))
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    run = core.mapped(lambda data, key: core.run_fused(learner, data, key), (0, 0))
    result = jax.jit(run)(data, keys)
    state = jax.tree.map(lambda x: x[:, None], result.state._replace(rng=result.state.step))
    return _features(student, result._replace(state=state), source)


def _apart() -> float:
    model, stream, tx = testing.standard_model(), testing.standard_stream(), optax.sgd(0.1)

    def run(method, variables=None):
        learner = core.make_learner(model, method, tx, stream, batch_size=8, steps=20)
        start = learner.init(jax.random.key(0), variables)
        before = jax.tree.map(np.asarray, (start.params, start.model_state))
        after = core.run_experience(learner, start, core.to_device(stream), 0)
        return before, (after.params, after.model_state)

    before, after = run(continual.cat(3))
    worst = []
    for k in range(3):
        own = jax.tree.map(lambda x, k=k: jnp.asarray(x[k]), before)
        _, alone = run(core.identity(), core.Variables(*own))
        worst.append(distance(alone, jax.tree.map(lambda x, k=k: x[k], after)))
    return max(worst)


def _sums(x: np.ndarray, y: np.ndarray) -> tuple[jax.Array, jax.Array]:
    rows = _cat.with_one(jnp.asarray(x))
    return rows.T @ rows, rows.T @ y


def _drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return 3 + rng.normal(size=(60, 12)), np.eye(4)[rng.integers(4, size=60)]


def _closed() -> float:
    x, y = _drawn()
    with jax.enable_x64(True):
        head = _cat.probe(*_sums(x, y), 0.7)
    theirs = Ridge(alpha=0.7).fit(x, y)
    return max(distance(head.kernel, theirs.coef_.T), distance(head.bias, theirs.intercept_))


def _equal() -> float:
    x, y = _drawn()
    thrice = np.tile(x, 3)
    with jax.enable_x64(True):
        one, three = _cat.probe(*_sums(x, y), 0.7), _cat.probe(*_sums(thrice, y), 3 * 0.7)
        return distance(one(x), three(thrice))


CHECK = Check(
    "ctrain_jax.continual.cat",
    "Zhang and Bottou, Learning useful representations for shifting tasks and distributions, ICML 2023, "
    "arXiv 2212.07346",
    claims,
    rows=(104,),
    data=True,
)
