"""Sphinx: pages in Markdown, an API reference from docstrings, formulas drawn as pictures; no page loads anything."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "naics-pipeline"
author = "the naics-pipeline authors"
release = version = installed_version("naics-pipeline")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docs.extensions.generated",
    "docs.extensions.docstrings",
    "docs.extensions.formulas",
]
exclude_patterns = ["_build", "generated/parts"]

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
suppress_warnings = ["myst.header"]  # Of included files, whose levels begin elsewhere.

autodoc_inherit_docstrings = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "naics-pipeline"
html_math_renderer = "svg"
html_static_path = ["static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sphinx = html_show_copyright = False
