"""Vectors of eight float32 for kernels: what LLVM's own vectoriser does not see.

It vectorises innermost loops only, and a sum over an outer loop goes through memory then. With ``load``, ``spread``,
``+ - *``, ``total`` and ``store`` a kernel says itself what is held in registers, on any processor that LLVM knows.
"""

import operator
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, overload, register_model

from projectlib.engines.cpu.kernels.compiler import compiled_in_order

LANES = 8
LOG2_E = np.float32(1.44269504)
REGISTER = ir.VectorType(ir.FloatType(), LANES)


def intrinsic(function: Callable) -> Callable:
    """numba's intrinsic, of the type it is called with: without the typing context, which numba itself passes."""
    return numba_intrinsic(function)


class VectorType(types.Type):
    """numba's type of such a vector."""

    def __init__(self) -> None:
        super().__init__(name=f"float32 x {LANES}")


vector = VectorType()


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """It is one LLVM vector."""

    def __init__(self, manager, numba_type) -> None:
        super().__init__(manager, numba_type, REGISTER)


def address(context, builder, signature, arguments):
    """Pointer to the eight elements of the first argument, an array, that begin at the second, a tuple of indices."""
    array_type = signature.args[0]
    array = context.make_array(array_type)(context, builder, arguments[0])
    item = cgutils.get_item_pointer(context, builder, array_type, array, cgutils.unpack_tuple(builder, arguments[1]))
    return builder.bitcast(item, REGISTER.as_pointer())


def indices_of(array: types.Type) -> types.UniTuple:
    """The type of an array's indices.  Raises TypingError for one whose memory is not eight float32 side by side."""
    if not (isinstance(array, types.Array) and array.dtype == types.float32 and array.layout == "C"):
        raise TypingError(f"vectors are of C-contiguous float32 arrays, not of {array}")
    return types.UniTuple(types.intp, array.ndim)


@intrinsic
def load(typing_context, array, indices):
    """``array[..., i : i + 8]`` of a C-contiguous float32 array, i being the last of the indices."""

    def generate(context, builder, signature, arguments):
        return builder.load(address(context, builder, signature, arguments), align=4)

    return vector(array, indices_of(array)), generate


@intrinsic
def store(typing_context, array, indices, value):
    """``array[..., i : i + 8] = value``, as ``load``."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], address(context, builder, signature, arguments), align=4)
        return context.get_dummy_value()

    return types.void(array, indices_of(array), vector), generate


@intrinsic
def spread(typing_context, number):
    """The vector that holds a float32 eight times."""

    def generate(context, builder, signature, arguments):
        index = ir.IntType(32)
        first = builder.insert_element(ir.Constant(REGISTER, ir.Undefined), arguments[0], index(0))
        lanes = ir.Constant(ir.VectorType(index, LANES), [0] * LANES)
        return builder.shuffle_vector(first, ir.Constant(REGISTER, ir.Undefined), lanes)

    return vector(types.float32), generate


@intrinsic
def total(typing_context, value):
    """The sum of a vector's numbers."""

    def generate(context, builder, signature, arguments):
        (value,), num = arguments, LANES
        while num > 1:
            num //= 2
            halves = [
                builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(ir.IntType(32), num), lanes))
                for lanes in (list(range(num)), list(range(num, 2 * num)))
            ]
            value = builder.fadd(*halves)
        return builder.extract_element(value, ir.IntType(32)(0))

    return types.float32(vector), generate


def add_operator(instruction: str, *symbols: Callable) -> None:
    """Teach numba an operator of two vectors; a product and its sum may become one instruction."""

    @intrinsic
    def operate(typing_context, left, right):
        def generate(context, builder, signature, arguments):
            return getattr(builder, instruction)(*arguments, flags=("contract",))

        return vector(vector, vector), generate

    def choose(left, right):
        both = isinstance(left, VectorType) and isinstance(right, VectorType)
        return (lambda left, right: operate(left, right)) if both else None

    for symbol in symbols:
        overload(symbol)(choose)


add_operator("fadd", operator.add, operator.iadd)
add_operator("fsub", operator.sub)
add_operator("fmul", operator.mul)


@compiled_in_order  # reassociation would cancel the rounding constant
def exp2(x):
    """2^x of a float32 below 127: relative error 2e-7, 0 below -126 (where float32 turns subnormal), NaN of NaN.

    x = n + r with |r| <= 1/2, so 2^x = 2^n 2^r: a minimax polynomial of degree 6, and an exponent written bit by bit.
    Free of calls and branches, so that LLVM vectorises the loops around it, as it cannot with the C library's.
    """
    shifted = x + np.float32(12582912)  # 1.5 * 2^23: rounds, n is in the low bits
    r = x - (shifted - np.float32(12582912))
    series = np.float32(1.53532586e-4)
    series = series * r + np.float32(1.33990031e-3)
    series = series * r + np.float32(9.61843878e-3)
    series = series * r + np.float32(5.55033199e-2)
    series = series * r + np.float32(2.40226477e-1)
    series = series * r + np.float32(6.93147182e-1)
    series = series * r + np.float32(1)
    exponent = (np.float32(shifted).view(np.int32) << np.int32(23)) + np.int32(0x3F800000)
    power = np.int32(exponent).view(np.float32)
    return np.float32(0) if x < np.float32(-126) else series * power


@compiled_in_order
def exp(x):
    """e^x of a float32 below 88, as ``exp2``; the rounding of x log2 e costs as much as one of x would."""
    return exp2(x * LOG2_E)
