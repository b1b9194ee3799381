"""A run of avalanche-lib on arrays, in an environment of its own: `make peer` makes it, `peer.py` calls this.

python _avalanche.py ARRAYS.npz METHOD  ->  {"seconds": of training, "accuracy": on all test rows}, as a line of JSON
METHOD: naive, ewc, er; or torch, the steps of naive in a loop without any library but torch.

ARRAYS.npz has the rows of each experience in the order in which they are learned, the initial weights, and the options.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

warnings.filterwarnings("ignore")

# Its torchvision wants operators of a compiled part that the CPU build of torch cannot load, and never calls them.
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def main(path: str, method: str) -> None:
    """Trains on all experiences in turn and prints what came of it."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_taskaware_classification_dataset
    from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_tensor_classification_dataset
    from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import EWC, Naive, Replay

    arrays = np.load(path)
    options = json.loads(str(arrays["options"]))
    torch.manual_seed(0)

    def loaded(part: str) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(arrays[f"{part}inputs"]), torch.from_numpy(arrays[f"{part}labels"].astype(np.int64))

    def dataset(inputs: torch.Tensor, labels: torch.Tensor) -> object:
        return as_taskaware_classification_dataset(
            _make_taskaware_tensor_classification_dataset(inputs, labels, task_labels=0)
        )

    number = options["experiences"]
    tensors, test = [loaded(f"{t}_") for t in range(number)], loaded("test_")
    benchmark = benchmark_from_datasets(train=[dataset(*part) for part in tensors], test=[dataset(*test)])

    layers: list[torch.nn.Module] = []
    for k in range(options["layers"]):
        kernel, bias = (torch.from_numpy(arrays[f"{part}_{k}"]) for part in ("kernel", "bias"))
        layer = torch.nn.Linear(*kernel.shape)
        with torch.no_grad():
            layer.weight.copy_(kernel.T)
            layer.bias.copy_(bias)
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    common = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=options["learning_rate"]),
        "criterion": torch.nn.CrossEntropyLoss(),
        "train_mb_size": options["batch_size"],
        "train_epochs": 1,
        "eval_mb_size": 512,
        # What its default evaluator follows in training and ours records in each step, printed by neither.
        "evaluator": EvaluationPlugin(accuracy_metrics(epoch=True), loss_metrics(epoch=True), loggers=[]),
    }

    def by_hand(t: int) -> None:
        inputs, labels = tensors[t]
        for rows in torch.arange(len(inputs)).split(options["batch_size"]):
            common["optimizer"].zero_grad()
            common["criterion"](model(inputs[rows]), labels[rows]).backward()
            common["optimizer"].step()

    def by_avalanche(strategy: object) -> Callable[[int], None]:
        # Its replay would draw the memory in order as well, rows of one experience after the other.
        return lambda t: strategy.train(benchmark.train_stream[t], shuffle=method == "er")

    train_on = {
        "torch": lambda: by_hand,
        "naive": lambda: by_avalanche(Naive(**common)),
        "ewc": lambda: by_avalanche(EWC(ewc_lambda=options["lam"] / 2, mode="online", decay_factor=1.0, **common)),
        "er": lambda: by_avalanche(Replay(mem_size=options["capacity"], **common)),
    }[method]()

    began = time.perf_counter()
    for t in range(number):
        train_on(t)
    seconds = time.perf_counter() - began
    model.train(False)
    with torch.no_grad():
        accuracy = (model(test[0]).argmax(-1) == test[1]).float().mean().item()
    print(json.dumps({"seconds": seconds, "accuracy": accuracy}))


if __name__ == "__main__":
    main(*sys.argv[1:])
