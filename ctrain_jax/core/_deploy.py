"""A trained learner outside of its run: a function of inputs, a program in a file, tensors in a file."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import Outputs, TrainState, Variables
from ctrain_jax.core._data import as_floats, normalised, to_device
from ctrain_jax.core._learner import Learner
from ctrain_jax.core._problem import mask_logits
from ctrain_jax.core._run import is_mapped, position

_FORMAT = "ctrain_jax 1"
_MARK = b"ctrain_jax sha256 "  # before the checksum at the end of a program
_EMPTY = {"dict": {}, "tuple": ()}


def predictor(learner: Learner, state: TrainState) -> Callable[..., Outputs]:
    """What a learner answers, as a compiled function of inputs alone.

    Args:
      learner: from `make_learner`.
      state: of one seed, at any moment of its run; it is copied nowhere, so do not hand it to a run afterwards.

    Returns:
      `predict(inputs, task=None) -> Outputs`. Inputs `[B, ...]` are as in the source (uint8 images, or floats before
      the source's mean and std); where the stream has views (permuted, rotated), as the view makes them. `task` is the
      number of the experience that the rows belong to, a scalar or `[B]`, where the stream gives it; missing or given
      in vain, the call raises `ValueError`. Classes that the stream's `heads` rule out get the least logit.

    Raises:
      ValueError: a state of several seeds.

    Example:
      >>> import optax
      >>> from ctrain_jax import core, testing
      >>> model, stream = testing.standard_model(), testing.standard_stream()
      >>> learner = core.make_learner(model, core.identity(), optax.adam(1e-3), stream)
      >>> predict = core.predictor(learner, core.run_stream(learner).state)
      >>> predict(jnp.zeros((3, 12))).logits.shape
      (3, 6)
    """
    run = _predictor(learner, state)
    compiled = jax.jit(run)

    def predict(inputs: Any, task: Any = None) -> Outputs:
        _check_task(learner, task)
        return compiled(inputs) if task is None else compiled(inputs, task)

    return predict


def export_program(path: str | Path, learner: Learner, state: TrainState, *, batch_size: int | None = None) -> None:
    """Write what a learner answers as one file that needs neither this library nor the data to run.

    The file holds StableHLO for CPU, GPU and TPU with the parameters in it, by `jax.export`, which promises to read it
    for at least six months of later versions; and a checksum at its end.

    Args:
      path: the file to write.
      learner: from `make_learner`.
      state: of one seed.
      batch_size: rows of every call; any number by default.

    Raises:
      ValueError: a state of several seeds.
      ImportError: `flatbuffers` is not installed (`pip install 'ctrain_jax[export]'`).
    """
    raw = np.asarray(learner.stream.source.train["inputs"])
    rows = jax.export.symbolic_shape("b")[0] if batch_size is None else batch_size
    inputs = jax.ShapeDtypeStruct((rows, *raw.shape[1:]), raw.dtype)
    tasks = (jax.ShapeDtypeStruct((rows,), jnp.int32),) if learner.spec.task_known else ()
    run = _predictor(learner, state)
    # Outputs is a class of this library; a tuple is known everywhere.
    plain = jax.jit(lambda *args: tuple(run(*args)[:2]))
    exported = jax.export.export(plain, platforms=("cpu", "cuda", "tpu"))(inputs, *tasks)
    program = bytes(exported.serialize())
    # A flatbuffer does not see what stands behind it: jax.export.deserialize reads the file as it is.
    Path(path).write_bytes(program + _MARK + hashlib.sha256(program).digest())


def load_program(path: str | Path) -> Callable[..., Outputs]:
    """What `export_program` wrote, as a function.

    Args:
      path: the file.

    Returns:
      `predict(inputs[, task]) -> Outputs`, with the shapes and dtypes that it was exported for; `task` is int32 `[B]`.

    Raises:
      ValueError: a file that holds no program, or a damaged one.
    """
    _check_file(path)
    program, _, digest = Path(path).read_bytes().rpartition(_MARK)
    # jax.export has no checksum, and one flipped bit can make it read for ever.
    if hashlib.sha256(program).digest() != digest:
        raise ValueError(
            f"{path} holds no program of jax.export as export_program writes it, or a damaged one: export it again."
        )
    try:
        exported = jax.export.deserialize(bytearray(program))
    except Exception as error:
        raise ValueError(f"{path} holds no program of jax.export ({type(error).__name__}): export it again.") from error
    call = jax.jit(exported.call)
    return lambda *args: Outputs(*call(*map(jnp.asarray, args)))


def save_tensors(path: str | Path, variables: Variables | TrainState) -> None:
    """Write parameters and all else of a model as `safetensors`, for tools that know nothing of JAX.

    A tensor is named by its path, `params/dense_0/kernel`; kernels of Dense layers are `[in, out]`, of convolutions
    `[height, width, in, out]`, as in flax.

    Args:
      path: the file to write.
      variables: Variables, or a train state of one seed, whose model is written and nothing else of it.

    Raises:
      ValueError: a part that is neither empty nor a dict of dicts of arrays, with names without "/"; a state of several
        seeds.
      ImportError: `safetensors` is not installed (`pip install 'ctrain_jax[export]'`).
    """
    from safetensors.numpy import save_file

    if isinstance(variables, TrainState):
        _check_single(variables)
        variables = Variables(variables.params, variables.model_state, variables.frozen)
    tensors: dict[str, np.ndarray] = {}
    empty: dict[str, str] = {}
    tree = variables._asdict()
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_empty):
        names: list[Any] = [getattr(key, "key", None) for key in keys]
        if not all(isinstance(name, str) and "/" not in name for name in names):
            raise ValueError(
                f"save_tensors expects dicts with names without '/', got {jax.tree_util.keystr(keys)}: name the "
                "tensors yourself, and use safetensors.flax.save_file."
            )
        name = "/".join(names)
        if _is_empty(leaf):
            empty[name] = type(leaf).__name__
        else:
            tensors[name] = np.asarray(leaf, order="C")  # safetensors writes what lies in memory, whatever its strides
    told = json.dumps(empty)
    save_file(tensors, path, metadata={"format": _FORMAT, "empty": told, "sha256": _digest(tensors, told)})


def load_tensors(path: str | Path) -> Variables:
    """What `save_tensors` wrote: give it to a run as `run_stream(learner, variables=...)`.

    Args:
      path: the file.

    Returns:
      The Variables, bit for bit.

    Raises:
      ValueError: a file that is damaged, or was not written by `save_tensors`.
      ImportError: `safetensors` is not installed (`pip install 'ctrain_jax[export]'`).
    """
    from safetensors import SafetensorError, safe_open

    _check_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, AttributeError) as error:  # a dtype that numpy does not have is the second
        raise ValueError(f"{path} is damaged or no safetensors file ({error}): write it again.") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{path} was not written by save_tensors: read it with safetensors.flax.load_file, and build Variables."
        )
    told = metadata.get("empty", "")
    if metadata.get("sha256") != _digest(tensors, told):
        raise ValueError(f"{path} is damaged, its tensors do not match their checksum: write it again.")
    try:
        empty = {name: _EMPTY[kind] for name, kind in json.loads(told).items()}
        leaves = jax.tree.map(jnp.asarray, tensors)
        variables = Variables(**flax.traverse_util.unflatten_dict({**leaves, **empty}, sep="/"))
        jax.tree.structure(variables)  # refuses what is nested without end
    except Exception as error:  # whatever a file that was made by hand makes of the reader
        raise ValueError(f"{path} holds no Variables ({type(error).__name__}): write it again.") from error
    return variables


def _predictor(learner: Learner, state: TrainState) -> Callable[..., Outputs]:
    """`predict(inputs[, task])`, traceable."""
    _check_single(state)
    t, done = position(learner, state)
    # Between two experiences the one that is over was learned last.
    t = np.int32(t if done or t == 0 else t - 1)
    stream, spec = learner.stream, learner.spec
    data = to_device(stream, learner.mesh)
    classes, seen = jnp.asarray(stream.origins.classes), jnp.asarray(stream.experiences["train"].seen[t])

    def run(inputs: jax.Array, task: jax.Array | None = None) -> Outputs:
        inputs = normalised(as_floats(jnp.asarray(inputs)), stream.source)
        rows = inputs.shape[0]
        batch = {"inputs": inputs, "weights": jnp.ones(rows), "row": jnp.zeros(rows, jnp.int32)}
        if task is not None:
            task = jnp.broadcast_to(jnp.asarray(task, jnp.int32), (rows,))
            batch |= {"task": task, "experience": task}
        if spec.heads == "task":
            batch["classes"] = classes[task]
        elif spec.heads == "seen":
            batch["classes"] = jnp.broadcast_to(seen, (rows, *seen.shape))
        outputs = learner.predict(state, data, t, batch)
        # Only a logit for each class can be ruled out: tokens and places are answers of another kind.
        allowed = batch.get("classes") if outputs.logits.ndim == 2 else None
        return outputs._replace(logits=mask_logits(outputs.logits, allowed))

    return run


def _digest(tensors: Mapping[str, np.ndarray], told: str) -> str:
    """SHA-256 of named arrays, and of what is told beside them."""
    sha = hashlib.sha256(told.encode())
    for name, array in sorted(tensors.items()):
        sha.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def _check_file(path: str | Path) -> None:
    """Before something is opened that has no end, or no name in the words of its reader."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file: give the path of one that was written.")


def _is_empty(x: Any) -> bool:
    return type(x) in (dict, tuple) and not x


def _check_single(state: TrainState) -> None:
    if is_mapped(state):
        raise ValueError(
            f"expected the state of one seed, got {state.step.shape[0]} of them: take one with "
            "jax.tree.map(lambda x: x[0], state)."
        )


def _check_task(learner: Learner, task: Any) -> None:
    known, num = learner.spec.task_known, learner.spec.num_experiences
    if known and task is None:
        raise ValueError(f"{learner.stream.name} asks with the task of a row: pass task, 0 to {num - 1}.")
    if not known and task is not None:
        raise ValueError(f"{learner.stream.name} asks without the task of a row: leave task out.")
    if task is not None and not (0 <= np.min(task) and np.max(task) < num):
        raise ValueError(f"task expects numbers of experiences, 0 to {num - 1}, got {np.min(task)} to {np.max(task)}.")
