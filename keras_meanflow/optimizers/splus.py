"""SPlus: the sign of the momentum in the eigenbasis of the gradients' second moments."""

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from keras_meanflow.backend import Tensor, cond, eigenvectors, uncompiled
from keras_meanflow.optimizers.dense import DenseGradients
from keras_meanflow.parts.part import register


@register
class SPlus(DenseGradients, keras.optimizers.Optimizer):
    """A stable whitening optimizer: `theta <- theta - lr 2/(m+n) Q_L sign(Q_L^T M Q_R) Q_R^T`.

    For each matrix (m, n) with gradient G it keeps `M <- b1 M + (1-b1) G`,
    `L <- b2 L + (1-b2) G G^T` and `R <- b2 R + (1-b2) G^T G`. Every `refresh_every` steps it sets
    Q_L and Q_R to the eigenvectors of L and R. Vectors, and tensors of more than two axes, step by
    `lr nonstandard_scale sign(M)`. Learning rates differ in size from Adam's, and one rate is good
    for all widths: 0.2, or `splus_rate(adam_rate, width)`.

    The paper evaluates an average of the weights. With `use_ema=True` Keras keeps it: use
    `keras.callbacks.SwapEMAWeights`; at the end of `fit` the model's weights become the average.
    A `FlowMap` keeps raw and averaged weights separately, so use `use_ema=False` there, and
    `FlowMap(averages=(0.999,))`.

    If the gradient of a variable is not finite, or its square overflows, the variable does not
    change in that step. Its M, L, R and Q do not change either.

    Args:
        learning_rate: a float, a schedule or a callable.
        beta_1: decay b1 of the momentum.
        beta_2: decay b2 of the factors L and R.
        weight_decay: decoupled decay, multiplied by the same lr and scale as the step; or None.
        use_ema: whether to average the weights, `e <- e + (1-b3)/(1-b3^t) (theta - e)`.
        ema_momentum: decay b3 of that average.
        refresh_every: steps between two eigendecompositions; the first step has one too.
        epsilon: added to the diagonals of L and R before an eigendecomposition.
        max_dim: a side of this size or more gets no factor: it is not rotated.
        nonstandard: words; a matrix with one of them in its path, in any letter case, has the
            `nonstandard_scale`. So has a matrix with a side of `max_dim` or more.
        nonstandard_scale: scale in the place of `2 / (m+n)` for these matrices, and for all
            variables that are not matrices.
        nonstandard_update: "rotate", as in the released code: these matrices are whitened like the
            others; "sign", as in the paper: plain sign(M), which needs no factors.
        order: "optax": both the average and the decay use the weights before the step; "torch":
            the average uses the weights after the step, the decay comes after both, and a side of
            exactly `max_dim` has the scale `2 / (m+n)`.
        fold: whether a tensor of more than two axes steps as a matrix: its axes are folded into the
            shape nearest to a square. This concerns convolutions and the kernels of Keras'
            `MultiHeadAttention`. The released code steps them by the sign.
        **kwargs: as in `keras.optimizers.Optimizer`: clipping, `gradient_accumulation_steps`, ...

    Raises:
        ValueError: for a decay outside [0, 1), a number below its minimum, or an unknown word.

    Example:
        >>> model.compile(SPlus(0.2, weight_decay=1e-3), loss="mse")
        >>> model.fit(x, y, callbacks=[keras.callbacks.SwapEMAWeights()])

    References:
        Frans, Levine and Abbeel, A Stable Whitening Optimizer for Efficient Neural Network Training
        (arXiv 2506.07254), algorithm 2; kvfrans/splus.
    """

    def __init__(
        self,
        learning_rate: Any = 0.2,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        weight_decay: float | None = 1e-2,
        use_ema: bool = True,
        ema_momentum: float = 0.999,
        refresh_every: int = 100,
        epsilon: float = 1e-30,
        max_dim: int = 10_000,
        nonstandard: tuple[str, ...] = ("embed", "layernorm"),
        nonstandard_scale: float = 1e-3,
        nonstandard_update: str = "rotate",
        order: str = "optax",
        fold: bool = False,
        name: str = "splus",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            name=name,
            **kwargs,
        )
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.refresh_every, self.max_dim = refresh_every, max_dim
        self.nonstandard, self.nonstandard_scale = nonstandard, nonstandard_scale
        self.nonstandard_update, self.order, self.fold = nonstandard_update, order, fold
        self._check()

    def _check(self):
        for word in ("beta_1", "beta_2"):
            if not 0.0 <= getattr(self, word) < 1.0:
                raise ValueError(f"{word} must be in [0, 1). Received: {getattr(self, word)}.")
        if not 0.0 < self.ema_momentum < 1.0:
            raise ValueError(f"ema_momentum must be in (0, 1). Received: {self.ema_momentum}.")
        if isinstance(self.nonstandard, str):
            raise ValueError(f"nonstandard is a tuple of words. Received: {self.nonstandard!r}.")
        for word in ("refresh_every", "max_dim"):
            value = getattr(self, word)
            if value != int(value) or value < 1:
                raise ValueError(f"{word} is a whole number, at least 1. Received: {value}.")
        for word, known in (("nonstandard_update", ("rotate", "sign")), ("order", tuple(_STEPS))):
            if getattr(self, word) not in known:
                raise ValueError(f"{word} is one of {known}. Received: {getattr(self, word)!r}.")

    # State, decided once from shapes and paths

    def build(self, variables: list[keras.Variable]) -> None:
        """Make the momentum M and, for each side that is rotated, its factor and its basis."""
        if self.built:
            return
        super().build(variables)
        self._rules = [self._rule(variable) for variable in variables]
        self._momentums, self._sides = [], []
        for i, (variable, rule) in enumerate(zip(variables, self._rules, strict=True)):
            self._momentums.append(self._momentum(variable, rule))
            self._sides.append([self._side(rule, axis, i) for axis in rule.rotated])

    def _rule(self, variable):
        shape = tuple(variable.shape)
        if self.fold and len(shape) > 2:
            shape = _nearest_to_square(shape)
        is_matrix, largest = len(shape) == 2, max(shape, default=0)
        small = largest < self.max_dim or (self.order == "torch" and largest == self.max_dim)
        named = any(word.lower() in variable.path.lower() for word in self.nonstandard)
        standard = is_matrix and small and not named
        rotates = is_matrix and (standard or self.nonstandard_update == "rotate")
        return _Rule(
            shape=shape,
            rotated=[axis for axis in (0, 1) if rotates and shape[axis] < self.max_dim],
            scale=2.0 / sum(shape) if standard else self.nonstandard_scale,
            decay=(self.weight_decay or 0.0) if self._use_weight_decay(variable) else 0.0,
            dtype=keras.backend.result_type(variable.dtype, "float32"),
        )

    def _momentum(self, variable, rule):
        same = rule.shape == tuple(variable.shape)
        return self.add_variable(
            rule.shape,
            dtype=rule.dtype,
            layout=getattr(variable, "_layout", None) if same else None,
            name=f"{variable.path.replace('/', '_')}_momentum",
        )

    def _side(self, rule, axis, i):
        # Named by number, so that no layout map for the weights matches: these are replicated.
        square, name = (rule.shape[axis],) * 2, f"{'left' if axis == 0 else 'right'}_{i}"
        factor = self.add_variable(square, "zeros", rule.dtype, name=f"{name}_factor")
        basis = self.add_variable(square, "identity", rule.dtype, name=f"{name}_basis")
        return _Side(axis, factor, basis)

    def add_variable_from_reference(
        self,
        reference_variable: keras.Variable,
        name: str | None = None,
        initializer: Any = "zeros",
    ) -> keras.Variable:
        """As in Keras, but averages start at the weights, since some may never get a gradient."""

        def value(shape, dtype=None):
            return ops.copy(ops.cast(reference_variable, dtype))

        initializer = value if name == "average" else initializer
        return super().add_variable_from_reference(reference_variable, name, initializer)

    # The step

    @uncompiled
    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        """Step one variable: algorithm 2, lines 4 to 10."""
        i = self._get_variable_index(variable)
        rule, sides, momentum = self._rules[i], self._sides[i], self._momentums[i]
        G = ops.reshape(ops.cast(gradient, rule.dtype), rule.shape)
        finite = ops.isfinite(ops.sum(ops.square(G)))
        G, go = ops.where(finite, G, 0.0), ops.cast(finite, rule.dtype)

        M = _lerp(momentum, G, (1.0 - self.beta_1) * go)
        U = _whiten(M, sides)  # in the bases of the last refresh
        theta = ops.cast(ops.convert_to_tensor(variable), rule.dtype)
        rate = ops.cast(learning_rate, rule.dtype) * rule.scale * go
        new, averaged = _STEPS[self.order](theta, ops.reshape(U, theta.shape), rate, rule.decay)

        # The variable is assigned last: on PyTorch theta shares its memory.
        if self.use_ema:
            average = self._model_variables_moving_average[i]
            self.assign(average, _lerp(average, averaged, self._amount(average.dtype)))
        self.assign(momentum, M)
        for side in sides:
            self.assign(side.factor, _lerp(side.factor, side.product(G), (1.0 - self.beta_2) * go))
        self._refresh(sides)
        self.assign(variable, new)

    def _amount(self, dtype):
        """How far the average moves, so that after t steps it is the bias-corrected one."""
        t = ops.cast(self.iterations + 1, "float32")
        amount = (self.ema_momentum - 1.0) / ops.expm1(t * math.log(self.ema_momentum))
        return ops.cast(amount, dtype)

    def _refresh(self, sides):
        """Set the bases to the eigenvectors of the factors, if it is time."""

        def decompose():
            return [side.eigenvectors(self.epsilon) for side in sides]

        def keep():
            return [ops.convert_to_tensor(side.basis) for side in sides]

        if sides:
            for side, basis in zip(sides, cond(self._is_due(), decompose, keep), strict=True):
                self.assign(side.basis, basis)

    def _is_due(self):
        step = self.iterations + 1
        due = ops.logical_or(ops.equal(step, 1), ops.equal(step % self.refresh_every, 0))
        batches = self.gradient_accumulation_steps
        if batches:  # on JAX Keras steps at every batch, and keeps only the result of the last
            due = ops.logical_and(due, ops.equal((self._iterations + 1) % batches, 0))
        return due

    def _apply_weight_decay(self, variables):
        """Do nothing: the step applies the decay."""

    def _update_model_variables_moving_average(self, trainable_variables):
        """Do nothing: the step updates the averages."""

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        """Put the averages, if kept, in the place of the weights; called at the end of `fit`."""
        super().finalize_variable_values(var_list)
        if self.use_ema:  # JAX donates buffers: never share one
            for average in self._model_variables_moving_average:
                if average is not None:  # the scales of float8 have none
                    average.assign(ops.copy(average.value))

    def get_config(self) -> dict:
        """The arguments."""
        names = "beta_1 beta_2 refresh_every epsilon max_dim nonstandard_scale nonstandard_update"
        arguments = {name: getattr(self, name) for name in [*names.split(), "order", "fold"]}
        return {**super().get_config(), **arguments, "nonstandard": list(self.nonstandard)}


def splus_rate(adam_rate: float, width: int) -> float:
    """`2 width adam_rate`: the learning rate of SPlus from that of Adam, by its authors' rule.

    A step then changes the entries of a (width, width) matrix by `2 adam_rate` in root mean square.

    Args:
        adam_rate: a learning rate that is good for Adam.
        width: hidden size of the network.

    Example:
        >>> splus_rate(4e-4, 256)
        0.2048

    References:
        kvfrans/splus, README.
    """
    return 2.0 * width * adam_rate


@dataclasses.dataclass(frozen=True)
class _Rule:
    """How a variable steps: the shape of its matrix, the rotated axes, the scale and the decay."""

    shape: tuple
    rotated: list
    scale: float
    decay: float
    dtype: str


@dataclasses.dataclass(frozen=True)
class _Side:
    """One side of a matrix: its second moment, `factor`, and the eigenvectors, `basis`."""

    axis: int
    factor: keras.Variable
    basis: keras.Variable

    def product(self, G: Tensor) -> Tensor:
        """G G^T of the left side, G^T G of the right."""
        return G @ ops.transpose(G) if self.axis == 0 else ops.transpose(G) @ G

    def into(self, x: Tensor) -> Tensor:
        """x in the basis."""
        Q = ops.convert_to_tensor(self.basis)
        return ops.transpose(Q) @ x if self.axis == 0 else x @ Q

    def back(self, x: Tensor) -> Tensor:
        """x from the basis back to the standard one."""
        Q = ops.convert_to_tensor(self.basis)
        return Q @ x if self.axis == 0 else x @ ops.transpose(Q)

    def eigenvectors(self, epsilon: float) -> Tensor:
        """The eigenvectors of the factor; the present basis if the decomposition fails."""
        factor, old = ops.convert_to_tensor(self.factor), ops.convert_to_tensor(self.basis)
        Q = eigenvectors(factor + epsilon * ops.eye(factor.shape[0], dtype=factor.dtype))
        return ops.where(ops.all(ops.isfinite(Q)), Q, old)


def _whiten(M, sides):
    """`Q_L sign(Q_L^T M Q_R) Q_R^T`, without the sides that are not rotated."""
    for side in sides:
        M = side.into(M)
    U = ops.sign(M)
    for side in sides:
        U = side.back(U)
    return U


def _lerp(start, end, amount):
    return start + amount * (end - start)


def _nearest_to_square(shape):
    """The shape folded into two parts whose ratio is nearest to 1."""
    folds = [(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(1, len(shape))]
    return min(folds, key=lambda fold: max(fold) / max(min(fold), 1))


# Each: (theta, U, rate, decay) -> the new weights, and the weights that go into the average.


def _optax_step(theta, U, rate, decay):
    return theta - rate * (U + decay * theta), theta


def _torch_step(theta, U, rate, decay):
    stepped = theta - rate * U
    return stepped * (1.0 - rate * decay), stepped


_STEPS = {"optax": _optax_step, "torch": _torch_step}
