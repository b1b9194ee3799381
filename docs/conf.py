"""The documentation site. `make docs` builds it; README.md in this folder says how."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
# experiments/ is not installed: the evidence is written down by the code that writes the tables of the READMEs.
sys.path[:0] = [str(HERE), str(HERE.parent)]

import ctrain_jax  # noqa: E402

project = "ctrain_jax"
author = "the authors of ctrain_jax"
copyright = f"{author}, Apache-2.0"
release = ctrain_jax.__version__
html_title = f"ctrain_jax {release}"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
exclude_patterns = ["_build", "README.md"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "_site"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "dollarmath"]
html_math_renderer = "mathml"

default_role = "code"  # `x` in a docstring is code
add_module_names = False
python_use_unqualified_type_names = True
smartquotes_action = "D"  # dashes alone
highlight_language = "none"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Fields", "params_style")]
# No network: names of other libraries are no links.
nitpick_ignore_regex = [
    ("py:.*", r"(collections|jax|jnp|nn|np|optax|os)\..*"),
    ("py:.*", "Any|ArrayLike|Callable|Dtype|Initializer|Iterator|Mapping|Path|Sequence"),
    ("py:.*", "Batch|Document|Record|Rows|Rules"),  # aliases
]
