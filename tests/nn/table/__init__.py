"""The parity table: every public name of torch.nn, nn.functional, nn.init and nn.utils against objnet's.

``python -m tests.nn.table`` makes and prints it; ``python -m tests.nn.table nn.Conv2d nn.functional.pad`` some rows, with the reasons of
what differs; ``--all`` takes every sample PyTorch publishes in place of a few. The tests run the same rows.
"""
