"""The loop of the README runs, and learns."""

import re
from pathlib import Path

from ctrain_jax import optim


def test_the_loop_of_the_readme_learns_and_plans_the_next_run():
    readme = (Path(optim.__file__).parent / "README.md").read_text()
    scope = {}
    for code in re.findall(r"```python\n(.*?)```", readme, flags=re.S):
        exec(compile(code, "README.md", "exec"), scope)
    assert scope["values"][-10:].mean() < 0.1 * scope["values"][0]
    assert 0 < scope["plan"](50) <= 0.1 and scope["plan"](99) == 0
