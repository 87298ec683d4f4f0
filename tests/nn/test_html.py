"""``Module._repr_html_``: a tree that folds."""

import xml.dom.minidom

from objnet import nn


def test_the_tree_has_every_module_and_counts_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2, bias=False)))
    page = model._repr_html_()
    xml.dom.minidom.parseString(page.replace(" open>", ">"))
    assert page.count("<details") == 2 and page.count(" open>") == 1
    assert "(0): Linear(in_features=3, out_features=4, bias=True)" in page and "24 parameters" in page and "ReLU()" in page
    model[1].requires_grad_(False)
    assert "8 parameters frozen" in model._repr_html_()


def test_text_is_escaped_and_ties_count_once():
    class Odd(nn.Module):
        def extra_repr(self):
            return "<b>&"

    model = nn.Sequential(Odd(), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[2].weight = model[1].weight
    assert (
        "&lt;b&gt;&amp;" in model._repr_html_()
        and model._repr_html_().startswith("<details")
        and ">4 parameters" in model._repr_html_()
    )
