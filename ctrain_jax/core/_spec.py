"""Every static fact of a run, and every reason to refuse it, before anything is traced."""

from typing import Any

import jax
import jax.numpy as jnp

from ctrain_jax.core._base import Model, Outputs, Spec, Stream
from ctrain_jax.core._method import Method
from ctrain_jax.ops import check_size


def make_spec(
    model: Model,
    method: Method,
    optimizer: Any,
    stream: Stream,
    batch_size: int,
    epochs: int,
    steps: int | None,
    eval_batch_size: int,
) -> Spec:
    """The spec of a run; see `make_learner` for the arguments and for what is refused."""
    if isinstance(optimizer, Method) or not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        got = optimizer.name if isinstance(optimizer, Method) else getattr(optimizer, "__name__", repr(optimizer))
        raise TypeError(f"make_learner expects an optax transform, got {got}: give optax.adam(1e-3) or another.")
    for kind, value in ((Model, model), (Stream, stream)):
        if not isinstance(value, kind):
            raise TypeError(f"make_learner expects a {kind.__name__}, got {type(value).__name__}: {_HOW[kind]}.")
    sizes = {"batch_size": batch_size, "epochs": epochs, "eval_batch_size": eval_batch_size}
    sizes |= {} if steps is None else {"steps": steps}
    for name, value in sizes.items():
        check_size(name, value)
    train = stream.experiences["train"]
    per_experience = [-(-int(n) // batch_size) * epochs if steps is None else steps for n in train.size]
    if sum(per_experience) >= 2**31:
        raise ValueError(f"A run counts below 2**31 steps, got {sum(per_experience)}: lower epochs or steps.")
    inputs, labels = stream.source.train["inputs"], stream.source.train["labels"]
    dtype = jnp.float32 if inputs.dtype == jnp.uint8 else inputs.dtype
    shaped = jax.ShapeDtypeStruct
    batch = {
        "inputs": shaped((batch_size, *inputs.shape[1:]), dtype),
        "labels": shaped((batch_size, *labels.shape[1:]), labels.dtype),
        "weights": shaped((batch_size,), jnp.float32),
        "task": shaped((batch_size,), jnp.int32),
        "row": shaped((batch_size,), jnp.int32),
        "experience": shaped((batch_size,), jnp.int32),
    }
    if stream.heads != "all":
        batch["classes"] = shaped((batch_size, stream.source.num_classes), jnp.bool_)
    wrapped = method.model(model)

    def answer(rng, inputs, task):
        return wrapped.apply(wrapped.init(rng, inputs), inputs, task=task)[0]

    outputs = jax.eval_shape(answer, jax.random.key(0), batch["inputs"], batch["task"])
    _refuse(method, stream, outputs)
    return Spec(
        num_experiences=len(train.size),
        num_classes=stream.source.num_classes,
        max_rows=train.rows.shape[-1],
        batch_size=batch_size,
        steps=tuple(per_experience),
        labels=stream.labels,
        task_known=stream.task_known,
        heads=stream.heads,
        batch=batch,
        record={"row": shaped((), jnp.int32), "experience": shaped((), jnp.int32)},
        outputs=outputs,
    )


_HOW = {
    Model: "wrap a flax module with core.from_linen or core.from_nnx",
    Stream: "build one with streams.class_incremental(source, num_experiences)",
}


_NEEDS = ("task", "boundaries", "labels", "classes", "features")


def _refuse(method: Method, stream: Stream, outputs: Outputs) -> None:
    width = outputs.logits.shape[-1] if outputs.logits.ndim == 2 else None
    labels = stream.source.train["labels"]
    is_classes = labels.dtype.kind in "iu"
    if is_classes and width is not None and width != stream.source.num_classes:
        raise ValueError(
            f"The model answers {width} classes and the stream has {stream.source.num_classes}: "
            f"give the model num_classes={stream.source.num_classes}."
        )
    for part in method.parts or ():
        unknown = sorted(set(part.needs) - set(_NEEDS))
        if unknown:
            raise ValueError(f"{part.name} needs {', '.join(unknown)}: choose from {', '.join(_NEEDS)}.")
        if "task" in part.needs and not stream.task_known:
            raise ValueError(
                f"{part.name} needs the task of a row when predicting, which {stream.name} does not give: "
                "use streams.task_incremental."
            )
        if "boundaries" in part.needs and not stream.boundaries:
            raise ValueError(
                f"{part.name} needs to know where experiences begin and end, which {stream.name} hides: use a method "
                "that learns from step to step alone."
            )
        if {"labels", "classes"} & set(part.needs) and not stream.labels:
            raise ValueError(f"{part.name} needs labels, which {stream.name} hides: use a method that learns without.")
        if "classes" in part.needs and (not is_classes or labels.ndim != 1 or width is None):
            raise ValueError(
                f"{part.name} needs classes, got labels {labels.dtype}{list(labels.shape)} and logits "
                f"{list(outputs.logits.shape)}: give a stream whose labels are whole numbers [N], and a model that "
                "answers logits [B, C]."
            )
        if "features" in part.needs and outputs.features is None:
            raise ValueError(
                f"{part.name} needs features, which the model does not return: "
                "return core.Outputs(logits, features) from its __call__."
            )
