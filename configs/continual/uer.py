"""UER (arXiv 2309.04081) on Split-Fashion-MNIST in one pass, 10 rows and 10 more of a memory of 200.

python -m experiments.continual --config=configs/continual/uer.py --workdir=runs/uer --seeds=5

Measured: 5 s for 5 seeds on 2 cores, final accuracy 74.8 ± 1.8, forgetting 11.1 ± 7.0 (mean and 95 percent interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The setting of the authors' PCR: SGD at 0.1, batches of 10 and 10."""
    config = split_fashion_mnist("uer", ("uer",), arg)
    config.uer = {"size": 200, "scale": 10.0}
    config.model.hidden = (400,)
    config.optimizer = {"name": "sgd", "learning_rate": 0.1}
    config.batch_size = 10
    config.epochs = 1
    return config
