"""How networks are computed in training: in which precision, and compiled or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from leukaemia_zoo.errors import DataError
from leukaemia_zoo.machine import computing_devices, has_bfloat16_instructions

AUTOMATIC = "auto"
"""The recipe's way to say: in bfloat16 where the device has it."""


def resolved(policy: str) -> str:
    """The dtype policy that is meant on this machine.

    Args:
        policy: Name of a policy of Keras, or ``"auto"``: ``"mixed_bfloat16"`` on GPUs, TPUs and processors that say
            that they have bfloat16 instructions, else ``"float32"``, which is faster where bfloat16 is emulated.

    Raises:
        DataError: If Keras knows no such policy.
    """
    if policy == AUTOMATIC:
        kinds = {device.split(" ")[0] for device in computing_devices()}
        fast = bool(kinds & {"gpu", "cuda", "tpu"}) or (kinds == {"cpu"} and has_bfloat16_instructions())
        return "mixed_bfloat16" if fast else "float32"
    try:
        return str(keras.dtype_policies.DTypePolicy(policy).name)
    except (ValueError, TypeError):
        raise DataError(
            f"The recipe's precision '{policy}' is no dtype policy of Keras: write 'auto', 'float32' or "
            "'mixed_bfloat16'."
        ) from None


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Build layers under another dtype policy, or under what ``"auto"`` means; the caller's own is put back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(resolved(policy))
    try:
        with own_settings():
            yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Build layers that take float32 images, channels last, whatever Keras is set to; that is put back.

    ``keras.json`` and ``keras.config`` may say otherwise for other programs of the same user.
    """
    order, floats = keras.config.image_data_format(), keras.config.floatx()
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    try:
        yield
    finally:
        keras.config.set_image_data_format(order)
        keras.config.set_floatx(floats)


def compiles_steps() -> bool:
    """Whether training steps are compiled with XLA: JAX crawls without, elsewhere it costs more than it saves here."""
    return bool(keras.backend.backend() == "jax")
