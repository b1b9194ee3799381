"""A run of avalanche-lib on arrays, in an environment of its own: `make peer` makes it, `peer.py` calls this.

python _avalanche.py ARRAYS.npz METHOD  ->  {"seconds": of training, "accuracy": on all test rows}, as a line of JSON

ARRAYS.npz has the rows of each experience in the order in which they are learned, the initial weights, and the options.
"""

import json
import sys
import time
import warnings

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
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import EWC, Naive, Replay

    arrays = np.load(path)
    options = json.loads(str(arrays["options"]))
    torch.manual_seed(0)

    def dataset(inputs: np.ndarray, labels: np.ndarray) -> object:
        tensors = torch.from_numpy(inputs), torch.from_numpy(labels.astype(np.int64))
        return as_taskaware_classification_dataset(
            _make_taskaware_tensor_classification_dataset(*tensors, task_labels=0)
        )

    number = options["experiences"]
    train = [dataset(arrays[f"inputs_{t}"], arrays[f"labels_{t}"]) for t in range(number)]
    test = [dataset(arrays["test_inputs"], arrays["test_labels"])]
    benchmark = benchmark_from_datasets(train=train, test=test)

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
        "evaluator": EvaluationPlugin(),
    }
    strategy = {
        "naive": lambda: Naive(**common),
        "ewc": lambda: EWC(ewc_lambda=options["lam"] / 2, mode="online", decay_factor=1.0, **common),
        "er": lambda: Replay(mem_size=options["capacity"], **common),
    }[method]()

    seconds = 0.0
    for experience in benchmark.train_stream:
        began = time.perf_counter()
        # Its replay would draw the memory in order as well, rows of one experience after the other.
        strategy.train(experience, shuffle=method == "er")
        seconds += time.perf_counter() - began
    model.train(False)
    with torch.no_grad():
        answers = model(torch.from_numpy(arrays["test_inputs"])).argmax(-1).numpy()
    print(json.dumps({"seconds": seconds, "accuracy": float((answers == arrays["test_labels"]).mean())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
