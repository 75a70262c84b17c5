"""PyTorch: a network's calls through `torch.compile`, also in forward mode."""

import operator
from typing import Any

import keras
import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from keras_meanflow.backend.scopes import inside_jvp


class CompiledNetwork:
    """A network whose calls are compiled, once for each combination of shapes and dtypes.

    Dynamo traces a call, but not forward mode. Inside a `jvp` the operations on primals and
    tangents are recorded as they run (`make_fx`), and their graph is compiled: it contains no
    Python.
    """

    def __init__(self, network: keras.Model) -> None:
        self._network = network
        self._call = torch.compile(lambda *inputs: network(*inputs))
        self._products = {}

    def __call__(
        self, z: torch.Tensor, r: torch.Tensor, t: torch.Tensor, condition: Any = None
    ) -> torch.Tensor:
        """The network's output; a dual number for dual numbers."""
        call = self._call_on_duals if inside_jvp() else self._call
        return call(z, r, t, condition)

    def _call_on_duals(self, *inputs):
        *duals, condition = inputs
        primals, tangents = zip(*(forward_ad.unpack_dual(dual) for dual in duals), strict=True)
        values = [variable.value for variable in self._network.variables]
        arguments = (values, primals, tangents, condition)
        kinds = [(leaf.shape, leaf.dtype) for leaf in tree_leaves(arguments) if leaf is not None]
        key = (self._network.compute_dtype, *kinds)
        if key not in self._products:
            self._products[key] = torch.compile(self._product(*arguments), dynamic=False)
        with torch._C.DisableTorchFunction():  # the modes of a jvp are only for the recording
            return forward_ad.make_dual(*self._products[key](*arguments))

    @torch.no_grad()
    def _product(self, *arguments):
        """The operations of a call on dual numbers: `graph(*arguments)` is u and its tangent."""

        def record(values, primals, tangents, condition):
            with keras.StatelessScope(list(zip(self._network.variables, values, strict=True))):
                out = self._network(*map(forward_ad.make_dual, primals, tangents), condition)
            return tuple(forward_ad.unpack_dual(out))

        module = make_fx(record)(*arguments)
        module.graph.eliminate_dead_code()
        _detach_tangents(module.graph)
        module.recompile()
        return module


def _detach_tangents(graph):
    """Cut the gradient from the tangent to the nodes of u; the gradient of u stays."""
    u, _ = graph.output_node().args[0]
    of_u = {u}
    for node in reversed(graph.nodes):
        if node in of_u:
            of_u.update(node.all_input_nodes)
    for node in list(graph.nodes):
        if node.target is operator.getitem and node.args[0] in of_u:
            of_u.add(node)  # another output of a node of u
        if node in of_u or node.op == "output":
            continue
        for source in of_u.intersection(node.all_input_nodes):
            with graph.inserting_before(node):
                detached = graph.call_function(torch.ops.aten.detach.default, (source,))
            node.replace_input_with(source, detached)
