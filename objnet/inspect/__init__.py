"""Looking at models without running them: :func:`summary`, :func:`to_dot` and what they are made of."""

from objnet.inspect.graph import Graph, to_dot
from objnet.inspect.summary import Row, Summary, summary

__all__ = ["Graph", "Row", "Summary", "summary", "to_dot"]
