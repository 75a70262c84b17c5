"""Names of a network's weights: the attributes that lead to them, as in `blocks.3.fc1.kernel`."""

import keras


def named_weights(network: keras.Layer) -> dict[str, keras.Variable]:
    """The variables of a network by the attributes that lead to them, in their order.

    Unlike `variable.path`, the names are the same in every process and on every backend.

    Args:
        network: a `keras.Layer`.

    Raises:
        ValueError: for a variable that no public attribute leads to.

    Example:
        >>> list(named_weights(MLP(data_size=2, depth=1)))[:2]
        ['times.0.hidden.kernel', 'times.0.hidden.bias']
    """
    names = {id(variable): name for name, variable in _walk(network, "")}
    lost = [variable.path for variable in network.weights if id(variable) not in names]
    if lost:
        raise ValueError(
            f"Public attributes of {type(network).__name__} must lead to every weight. "
            f"Received: {lost[:5]}."
        )
    return {names[id(variable)]: variable for variable in network.weights}


def _walk(layer, prefix):
    """Yields (name, variable) of a layer and of the layers in its public attributes."""
    for variable in layer._trainable_variables + layer._non_trainable_variables:
        yield prefix + variable.name, variable
    # PyTorch keeps the submodules of a module apart from its other attributes.
    attributes = {**vars(layer), **vars(layer).get("_modules", {})}
    for name, value in attributes.items():
        if name.startswith("_"):
            continue
        if isinstance(value, keras.Layer):
            yield from _walk(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            for i, item in enumerate(value):
                if isinstance(item, keras.Layer):
                    yield from _walk(item, f"{prefix}{name}.{i}.")
