"""How the weights of a network are divided among devices that share one model."""

# As in Megatron: the first product of a pair is divided by columns and the second by rows, so that
# each pair needs one sum over devices. Modulations are divided by columns. The keys are regular
# expressions of variables' paths.
DIT_LAYOUT = {
    ".*(qkv|fc1|modulation)/kernel": (None, "model"),
    ".*(qkv|fc1|modulation)/bias": ("model",),
    ".*(proj|fc2)/kernel": ("model", None),
}
# An average is divided like its weight.
DIT_LAYOUT |= {path.replace("/", "_"): axes for path, axes in DIT_LAYOUT.items()}
