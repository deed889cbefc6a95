"""Records with seeded random contents, for golden values and properties."""

from typing import Any

import numpy as np
import numpy.typing as npt

from features.pin_state import PIN_RECORD
from features.registry import Entity
from features.user_state import CONTEXT_RECORD, USER_RECORD

DTYPES = {Entity.PIN: PIN_RECORD, Entity.USER: USER_RECORD, Entity.CONTEXT: CONTEXT_RECORD}


def random_records(entity: Entity, count: int = 64, seed: int = 20261120) -> npt.NDArray[Any]:
    """`count` records whose fields hold small non-negative numbers, a third of them 0.

    NOTE: golden values hang on this function; numpy keeps `PCG64` and `integers` stable
    (NEP 19 lets a Generator's stream change, so the raw bit generator is used).
    """
    dtype = DTYPES[entity]
    raw = np.random.PCG64(seed)
    records = np.zeros(count, dtype)
    for name in dtype.names or ():
        field = records[name]
        bits = raw.random_raw(field.size).astype(np.uint64)
        numbers = (bits >> np.uint64(33)) % np.uint64(_limit(field.dtype))
        records[name] = np.where(bits % np.uint64(3) == 0, 0, numbers).reshape(field.shape)
    return records


def _limit(dtype: np.dtype[Any]) -> int:
    return {"u1": 2, "u2": 64, "f2": 8, "f4": 1024}.get(dtype.str[1:], 2**31)
