"""Decimal text -> float64, thousands of numbers at a time and to the same bits as Python's float().

A double holds every integer below 2^53 and every power of ten up to 10^22, so that a number of up to 15 digits is one
correctly rounded division (Clinger, "How to read floating point numbers accurately", PLDI 1990). Up to 18 digits the
quotient is kept as an unevaluated sum of two doubles (Dekker, Numerische Mathematik 18, 1971), which settles the
rounding of all but the numbers that lie almost half way between two doubles; those are left to float().

Shape letters: B bytes, N numbers.
"""
import numpy as np

MAX_DIGITS = 18                      # 10^18 < 2^63: so many digits fit an int64
MAX_PLACES = 22                      # a double holds 10^22 exactly, and no higher power
EXACT = 1 << 53                      # a double holds every integer up to here
_POWER_32 = 10 ** np.arange(9, dtype=np.uint32)
_POWER_64 = 10 ** np.arange(MAX_DIGITS + 1, dtype=np.int64)
_POWER = np.array([float(10 ** n) for n in range(MAX_PLACES + 1)])
_SPLIT = 134217729.0                 # 2^27 + 1: cuts a double into two halves of 26 bits (Veltkamp)
_NEAR = 2.0 ** -20                   # of a unit in the last place; the two-double quotient is exact to about 2^-50


def eight_digits(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the eight characters up to each place spell, other characters read as 0.

    Args:
        text: (B,) uint8.
    Returns:
        (B,) uint32 in 0..99,999,999, and (B,) bool: the character is a digit.
    """
    digit = text - np.uint8(ord("0"))
    is_digit = digit < 10
    digit *= is_digit
    two = digit.copy()
    two[1:] += digit[:-1] * np.uint8(10)
    two = two.astype(np.uint16)
    four = two.copy()
    four[2:] += two[:-2] * np.uint16(100)
    four = four.astype(np.uint32)
    eight = four.copy()
    eight[4:] += four[:-4] * np.uint32(10_000)
    return eight, is_digit


def integers(eight: np.ndarray, end: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The (N,) int64 that the `length` digits before `end` spell, 0 without digits.

    Args:
        eight: from eight_digits.
        end: (N,) int64.
        length: (N,) int64 in 0..22; from 10^18 on the result is some number above that.
    """
    longest = int(length.max(initial=0))
    value = (eight.take(end - 1) % _POWER_32.take(np.minimum(length, 8))).astype(np.int64)
    # a place before the text wraps round to its end, and is then read modulo 1
    if longest > 8:
        value += (eight.take(end - 9) % _POWER_32.take(np.clip(length - 8, 0, 8))).astype(np.int64) * 10 ** 8
    if longest > 16:
        top = eight.take(end - 17) % _POWER_32.take(np.clip(length - 16, 0, 8))
        value += np.minimum(top, 100).astype(np.int64) * 10 ** 16
    return value


def decimals(eight: np.ndarray, dot: np.ndarray, whole: np.ndarray, end: np.ndarray,
             places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers without sign or exponent.

    Args:
        eight: from eight_digits.
        dot, end: (N,) int64, where the digits before and after the point end.
        whole, places: (N,) int64, how many they are: together at most 18, or places at most 22 after a mere 0.
    Returns:
        (N,) float64, correctly rounded, and the indices of those left to float().
    """
    numerator = integers(eight, dot, whole)
    if places.any():
        numerator = numerator * _POWER_64.take(np.minimum(places, MAX_DIGITS)) + integers(eight, end, places)
    return quotients(numerator, places)


def quotients(numerator: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """numerator / 10^places, correctly rounded.

    Args:
        numerator: (N,) int64, not negative.
        places: (N,) int64 in 0..22.
    Returns:
        (N,) float64, and the indices of those whose rounding is not certain: a few in a million, and all from 10^18 on.
    """
    quotient = numerator / _POWER.take(places)
    long = np.flatnonzero(numerator >= EXACT)
    if len(long) == 0:
        return quotient, long
    numerator, power, first = numerator[long], _POWER.take(places[long]), quotient[long]
    high = numerator.astype(np.float64)
    low = (numerator - high.astype(np.int64)).astype(np.float64)
    # first * power = product + error, without rounding; hence the rest of the division, without rounding
    product = first * power
    a, b = _halves(first), _halves(power)
    error = ((a[0] * b[0] - product) + a[0] * b[1] + a[1] * b[0]) + a[1] * b[1]
    second = ((high - product) - error + low) / power
    rounded = first + second
    left = np.abs((first - rounded) + second)
    unit = np.spacing(rounded)
    # half way to the next double; below a power of two that is a quarter of the unit
    doubtful = (np.abs(left - unit / 2) < unit * _NEAR) | (np.abs(left - unit / 4) < unit * _NEAR)
    quotient[long] = rounded
    return quotient, long[doubtful | (numerator >= 10 ** MAX_DIGITS)]


def _halves(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two doubles of at most 26 bits whose sum is the value."""
    lifted = value * _SPLIT
    high = lifted - (lifted - value)
    return high, value - high
