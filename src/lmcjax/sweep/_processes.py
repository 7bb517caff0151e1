"""What the processes of one distributed job tell each other."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import jax

# Milliseconds; that process 0 is dead is noticed by its heartbeats, long before
_PATIENCE = 24 * 3600 * 1000
# Makes the keys of several sweeps in one job different
_TURN = itertools.count()


@contextlib.contextmanager
def process_0_first(what: str) -> Iterator[None]:
    """Let process 0 of a job do something while the others wait; its failure is theirs too.

    All processes run the same code in the block, which asks for the process itself. They tell each
    other by the key-value store of `jax.distributed`, since collectives on a CPU fail where
    processes come 30 seconds apart.

    Raises:
        ValueError: in the others, what went wrong in process 0.
    """
    if jax.process_count() == 1:
        yield
        return
    from jax._src.distributed import global_state  # it has no public name

    client: Any = global_state.client
    key = f"lmcjax/{next(_TURN)}/{what}"
    failure = "it was stopped"
    try:
        yield
        failure = ""
    except (ValueError, OSError) as error:
        failure = str(error)
        raise
    finally:
        if jax.process_index() == 0:
            client.key_value_set(key, failure)
    if jax.process_index() > 0:
        failure = client.blocking_key_value_get(key, _PATIENCE)
        if failure:
            raise ValueError(f"process 0 could not {what}: {failure}")
