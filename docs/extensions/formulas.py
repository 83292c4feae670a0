"""Formulas as pictures in the page (SVG), drawn when the site is built: no script, no font, no network."""

from html import escape
from typing import Any

import ziamath
from docutils import nodes

SIZE = 16
"""In pixels, as the text around it."""


def setup(app: Any) -> dict[str, bool]:
    """Registers the renderer `svg`."""
    # Outlines of letters inside each picture, so that pictures of one page do not share them by name.
    ziamath.config.svg2 = False
    app.add_html_math_renderer("svg", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(translator: Any, node: Any) -> None:
    formula = ziamath.Latex(node.astext(), size=SIZE, color="currentColor", inline=True)
    translator.body.append(_picture(formula, node.astext(), f"vertical-align: {formula.getyofst():.2f}px"))
    raise nodes.SkipNode


def _block(translator: Any, node: Any) -> None:
    formula = ziamath.Latex(node.astext(), size=SIZE, color="currentColor")
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(_picture(formula, node.astext(), "") + "</div>\n")
    raise nodes.SkipNode


def _picture(formula: Any, latex: str, style: str) -> str:
    """The SVG, which says the formula in LaTeX to those who cannot see it."""
    return str(formula.svg()).replace("<svg ", f'<svg role="img" aria-label="{escape(latex)}" style="{style}" ', 1)
