"""How the weights of a network are divided among devices that share one model."""

# Megatron's: the first product of a pair by columns and the second by rows, so that each pair
# needs one sum over devices; modulations by columns. Paths of variables, as regular expressions.
DIT_LAYOUT = {
    ".*(qkv|fc1|modulation)/kernel": (None, "model"),
    ".*(qkv|fc1|modulation)/bias": ("model",),
    ".*(proj|fc2)/kernel": ("model", None),
}
# An average lies where its weight does.
DIT_LAYOUT |= {path.replace("/", "_"): axes for path, axes in DIT_LAYOUT.items()}
