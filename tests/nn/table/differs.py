"""What differs from torch on purpose."""

from __future__ import annotations

# What differs on purpose: name, column, and why.
_WINDOW = "torch takes a kernel size of -1 and gives minus infinity"
_WRAPPED = "torch copies from memory it has not written where one side is negative and the other wraps twice"
DIFFERS: dict[tuple[str, str], str] = {
    (
        "nn.AdaptiveLogSoftmaxWithLoss",
        "gradients",
    ): "a tail that no target uses has zeros here: a compiled program cannot know the targets",
    ("nn.AdaptiveAvgPool2d", "refusals"): "torch takes 5 dimensions where the output size is 1, and no others",
    **{(f"nn.CircularPad{d}d", "refusals"): _WRAPPED for d in (1, 2, 3)},
    ("nn.EmbeddingBag", "refusals"): "torch takes offsets that decrease",
    ("nn.LinearCrossEntropyLoss", "refusals"): "a class out of range is an IndexError everywhere here",
    ("nn.MaxUnpool1d", "refusals"): "torch does not look at indices where the output is empty",
    ("nn.PixelUnshuffle", "refusals"): "torch gives the wrong shape for a batch of 0",
    ("nn.functional.hardtanh_", "refusals"): "torch takes min_val above max_val in place only",
    ("nn.functional.instance_norm", "refusals"): "torch takes integer running statistics",
    ("nn.functional.multi_head_attention_forward", "refusals"): "torch broadcasts pieces of an in_proj_bias of any size",
    ("nn.functional.scaled_dot_product_attention", "refusals"): "torch takes batches of 4 and 0 together",
    **{(f"nn.functional.fractional_max_pool{d}d{tail}", "refusals"): _WINDOW for d in (2, 3) for tail in ("", "_with_indices")},
}
