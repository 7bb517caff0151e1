"""PyTorch, whose modules run in JAX by torchax."""

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lmcjax.frameworks._common import Apply, check_fits, import_optional

_INSTALL = (
    "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu, "
    "then pip install 'lmcjax[torch]'"
)


def from_torch(module: Any) -> tuple[Apply, dict[str, Array]]:
    """`(apply, params)` of a PyTorch module in evaluation mode.

    Args:
        module: a `torch.nn.Module` whose `forward` takes one tensor, a batch of inputs. It is not
            changed. Tensors that it holds as plain attributes are not seen: register them as
            buffers.

    Returns:
        `apply(params, inputs)`, pure, and `params`: a dict by the keys of `state_dict()`, buffers
        such as BatchNorm's statistics among them. Of tied tensors the first name is kept
        (`tied_names`). 64-bit leaves are 32-bit leaves where JAX's x64 is off.

    Raises:
        ImportError: PyTorch or torchax is not installed.
    """
    torch = _import_torch()
    torchax = _import_torchax()
    from torchax.interop import jax_view, torch_view

    evaluated = copy.deepcopy(module).eval()
    ties = tied_names(evaluated)
    params = {}
    for name, tensor in _tensors(evaluated).items():
        if name not in ties:
            params[name] = _to_jax(tensor)
    constants = {}  # buffers that are not saved
    for name, tensor in evaluated.named_buffers():
        if name not in params and name not in ties:
            constants[name] = _to_jax(tensor)
    environment = torchax.default_env()

    def apply(params: PyTree, inputs: Array) -> Any:
        leaves = torch_view({**constants, **params})
        batch = torch_view(jnp.asarray(inputs))
        with environment, _only_known_operations():
            # PyTorch gives tied tensors the value of the one that is named.
            outputs = torch.func.functional_call(evaluated, leaves, (batch,))
        return jax_view(outputs)

    return apply, params


def to_torch(module: Any, params: PyTree) -> Any:
    """A copy of a PyTorch module with other parameters, such as aligned ones.

    Args:
        module: what `from_torch` was given, or one like it. It is not changed.
        params: of the form that `from_torch` returns.

    Returns:
        The copy, in the mode (training or evaluation) and the dtypes of `module`.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: names or shapes are not those of the module's tensors; names the first.
    """
    restored = copy.deepcopy(module)
    ties = tied_names(restored)
    tensors = _tensors(restored)
    own = {name: np.empty(tensor.shape) for name, tensor in tensors.items() if name not in ties}
    check_fits(own, params)
    state = restored.state_dict()
    for name, tensor in tensors.items():
        leaf = params[ties.get(name, name)]
        state[name] = _to_torch(leaf, tensor)
    restored.load_state_dict(state)
    return restored


def tied_names(module: Any) -> dict[str, str]:
    """The names in `state_dict()` of tensors that have an earlier name already.

    Args:
        module: a `torch.nn.Module`.

    Returns:
        The earlier name of each, `{"head.weight": "embedding.weight"}`.

    Raises:
        ImportError: PyTorch is not installed.
    """
    first_names: dict[int, str] = {}
    ties = {}
    for name, tensor in _tensors(module).items():
        first_name = first_names.setdefault(id(tensor), name)
        if first_name != name:
            ties[name] = first_name
    return ties


def _tensors(module: Any) -> dict[str, Any]:
    """The tensors of `state_dict()`, themselves and not views of them; no extra state."""
    torch = _import_torch()
    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _to_jax(tensor: Any) -> Array:
    """A copy of a tensor in JAX, whatever its device."""
    torch = _import_torch()
    tensor = tensor.detach().cpu()
    if not tensor.dtype.is_floating_point:
        return jnp.asarray(_narrowed(tensor.numpy().copy()))
    # NumPy lacks bfloat16 and 8-bit floats, but their values are values of float32.
    wide = tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)
    name = str(tensor.dtype).removeprefix("torch.")
    return jnp.asarray(_narrowed(wide.numpy().astype(jnp.dtype(name))))


def _narrowed(array: np.ndarray) -> np.ndarray:
    """The array in the dtype that JAX gives it, 32 bits of 64 where x64 is off."""
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))


def _to_torch(leaf: Any, like: Any) -> Any:
    """A leaf as a tensor, in the dtype of another one."""
    torch = _import_torch()
    array = np.asarray(leaf)
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype != np.float64:
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array)).to(like.dtype)


def _import_torch() -> Any:
    return import_optional("torch", _INSTALL)


@functools.cache
def _import_torchax() -> Any:
    """Import torchax into a newer PyTorch than its own.

    torchax 0.0.13 lists operations by dimension names, which PyTorch 2.13 has no more. It only uses
    them as keys of tables, so that any object does while it is imported.
    """
    torch = _import_torch()
    from torch._ops import OpOverloadPacket

    fast_path = torch.backends.mha.get_fastpath_enabled()
    lookup = OpOverloadPacket.__getattr__

    def lookup_or_placeholder(packet: Any, name: str) -> Any:
        try:
            return lookup(packet, name)
        except AttributeError:
            if "dimname" in name.lower() or "names" in name:
                return object()
            raise

    OpOverloadPacket.__getattr__ = lookup_or_placeholder
    try:
        torchax = import_optional("torchax", _INSTALL)
        torchax.default_env()  # imports the rest
    finally:
        OpOverloadPacket.__getattr__ = lookup
        # Importing torchax turns this off for all of PyTorch; here `apply` does, while it runs.
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return torchax


@contextlib.contextmanager
def _only_known_operations() -> Iterator[None]:
    """No fused attention: torchax does not know that operation."""
    mha = _import_torch().backends.mha
    enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(enabled)
