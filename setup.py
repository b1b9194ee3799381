"""Packaging of ctrain_jax; `make test` and `make run` install it from here."""

import pathlib

import setuptools

here = pathlib.Path(__file__).parent
version = (here / "ctrain_jax" / "_version.py").read_text().split('"')[1]

setuptools.setup(
    name="ctrain_jax",
    version=version,
    description="Continual learning, distillation and the training algorithms around them, in JAX, as pure functions.",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["ctrain_jax", "ctrain_jax.*"]),
    package_data={
        "": ["py.typed", "*.md"],
        "ctrain_jax.streams": ["data/*"],
        "ctrain_jax": ["evidence/*.json"],
    },
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "chex>=0.1.92",
        "absl-py>=2.1",
        "numpy",
        "scipy",
        "pillow",
        "scikit-learn",
        "tensorflow-datasets>=4.9.10",
        "array-record>=0.8",
        "importlib_resources",
    ],
    extras_require={
        "experiments": ["ml-collections>=1.1", "optuna>=5.0", "tensorboardX>=2.6.5"],
        "export": ["flatbuffers", "safetensors>=0.8"],
        "gpu": ["jax[cuda13]"],
        "dev": [
            "build",
            "flatbuffers",
            "hypothesis",
            "jupytext",
            "matplotlib",
            "ml-collections>=1.1",
            "optuna>=5.0",
            "pyright[nodejs]",
            "pytest>=9",
            "pytest-xdist>=3.8",
            "ruff",
            "safetensors>=0.8",
            "tensorboardX>=2.6.5",
        ],
        "docs": ["sphinx", "myst-parser", "furo"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
