"""Sphinx configuration: myst pages, numpydoc docstrings, types from the annotations."""

import scgp

project = "scgp"
author = "scgp developers"
project_copyright = "2026, scgp developers"
release = version = scgp.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False  # "np.bool_" would be read as a link

html_theme = "furo"
html_title = "scgp"
html_static_path = ["_static"]
