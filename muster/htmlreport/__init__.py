"""A rollout as one self-contained HTML page: ``view`` prepares what ``page`` renders."""

from muster.htmlreport.page import render
from muster.htmlreport.view import Page, make_page

__all__ = ["Page", "make_page", "render"]
