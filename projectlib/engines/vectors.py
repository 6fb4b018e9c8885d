"""Vectors of eight float32 for kernels: what LLVM's own vectoriser does not see.

It vectorises innermost loops only, and a sum over an outer loop goes through memory then. With ``load``, ``spread``,
``+ - *`` and ``store`` a kernel says itself what is held in registers; LLVM makes the best of it on any processor.
"""

import operator
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from projectlib.engines.compiler import compiled_in_order

LANES = 8
LOG2_E = np.float32(1.44269504)
REGISTER = ir.VectorType(ir.FloatType(), LANES)


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


def address(context, builder, array_type, array, indices):
    """Pointer to the eight elements that begin there."""
    struct = context.make_array(array_type)(context, builder, array)
    item = cgutils.get_item_pointer(context, builder, array_type, struct, indices)
    return builder.bitcast(item, REGISTER.as_pointer())


@intrinsic
def load(typing_context, array, row, column):
    """``array[row, column : column + 8]`` of a C-contiguous float32 array."""

    def generate(context, builder, signature, arguments):
        array, *indices = arguments
        return builder.load(address(context, builder, signature.args[0], array, indices), align=4)

    return vector(array, types.intp, types.intp), generate


@intrinsic
def store(typing_context, array, index, value):
    """``array[index : index + 8] = value``, of a contiguous float32 array."""

    def generate(context, builder, signature, arguments):
        array, index, value = arguments
        builder.store(value, address(context, builder, signature.args[0], array, [index]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def spread(typing_context, number):
    """The vector that holds a float32 eight times."""

    def generate(context, builder, signature, arguments):
        index = ir.IntType(32)
        first = builder.insert_element(ir.Constant(REGISTER, ir.Undefined), arguments[0], index(0))
        lanes = ir.Constant(ir.VectorType(index, LANES), [0] * LANES)
        return builder.shuffle_vector(first, ir.Constant(REGISTER, ir.Undefined), lanes)

    return vector(types.float32), generate


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

    x = n + r with |r| <= 1/2, so 2^x = 2^n 2^r: a minimax polynomial of degree 6, and n added to the exponent's bits.
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
    n = np.float32(shifted).view(np.int32) << np.int32(23)
    power = np.int32(np.float32(series).view(np.int32) + n).view(np.float32)
    return np.float32(0) if x < np.float32(-126) else power


@compiled_in_order
def exp(x):
    """e^x of a float32 below 88, as ``exp2``; the rounding of x log2 e costs as much as one of x would."""
    return exp2(x * LOG2_E)
