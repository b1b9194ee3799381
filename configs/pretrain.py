"""Small backbones for methods that start from a trained network: on half of CIFAR-10's classes, and on Fashion-MNIST.

python -m experiments.pretrain --name=vit_fashion_mnist --data_dir=DIR

with DIR as `make data` prepared it; also resnet_cifar10, resnet_fashion_mnist, vit_cifar10, or all. The other half of
CIFAR-10, and MNIST, are left for the streams. A run starts from one of them by `config.weights = "vit_fashion_mnist"`,
with a new head.

Measured, of the test rows: vit_fashion_mnist 83.7 percent, 167 s on one core that was in use; resnet_fashion_mnist 90.2,
804 s on 2 cores; of CIFAR-10's five classes vit_cifar10 69.0 and resnet_cifar10 79.2, on cores in use for more than an
hour. On 2 free cores vit_cifar10 makes 4.8 steps a second of its 3,910, resnet_cifar10 2.0 to 2.1 of 1,564: about 13
minutes each.
"""

from ml_collections import ConfigDict

from configs.common import split_fashion_mnist

VIT = {"name": "ViT", "patch": 7, "width": 64, "depth": 4, "heads": 4}
SLIM = {"name": "ResNet18", "width": 20}
BACKBONES = {
    "resnet_cifar10": ("cifar10", SLIM, 4),
    "resnet_fashion_mnist": ("fashion_mnist", SLIM, 2),
    "vit_cifar10": ("cifar10", VIT | {"patch": 4, "width": 96}, 10),
    "vit_fashion_mnist": ("fashion_mnist", VIT, 5),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """A key of BACKBONES; `,runlocal` behind it takes digits, for a first look."""
    name, *rest = f"{arg},".split(",")
    if name not in BACKBONES or set(rest) - {"", "runlocal"}:
        raise ValueError(f"The config takes one of {' '.join(BACKBONES)}, or that with ',runlocal', got {arg!r}.")
    dataset, model, epochs = BACKBONES[name]
    config = split_fashion_mnist(name, ("augmentation",), ",".join(filter(None, rest)))
    config.scenario.num_experiences = 1
    config.model = model
    config.augmentation = {"crop": 2, "flip": dataset == "cifar10"}
    if "runlocal" in rest:
        config.model = model | ({"patch": 4, "width": 16} if model["name"] == "ViT" else {"width": 4})
        return config
    config.source = {"name": "tfds", "dataset": dataset}
    config.optimizer.learning_rate = 1e-3
    config.batch_size = 64
    config.epochs = epochs
    if dataset == "cifar10":
        config.source.classes = (0, 1, 2, 3, 4)
        config.augmentation.crop = 4
    return config
