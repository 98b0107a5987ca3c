"""Ed25519 as RFC 8032, section 5.1, spells it out, in integers: a second opinion on signatures and on weak keys."""

import hashlib

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, PRIME) % PRIME
_ROOT = pow(2, (PRIME - 1) // 4, PRIME)
ZERO = (0, 1)


def add(one, other):
    """Sum of two points of the curve, in affine coordinates."""
    (x1, y1), (x2, y2) = one, other
    k = _D * x1 * x2 * y1 * y2 % PRIME
    return (
        (x1 * y2 + x2 * y1) * pow(1 + k, -1, PRIME) % PRIME,
        (y1 * y2 + x1 * x2) * pow(1 - k, -1, PRIME) % PRIME,
    )


def times(number, point):
    """A multiple of a point."""
    total = ZERO
    while number:
        if number & 1:
            total = add(total, point)
        point, number = add(point, point), number >> 1
    return total


def decode(raw):
    """The point that 32 bytes encode, or None; a y that is not reduced is taken modulo the prime."""
    number = int.from_bytes(raw, "little")
    y, sign = number & (1 << 255) - 1, number >> 255
    square = (y * y - 1) * pow(_D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * _ROOT % PRIME
    if (x * x - square) % PRIME:
        return None
    return (x if x & 1 == sign else (PRIME - x) % PRIME, y % PRIME)


def encode(point):
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


BASE = decode((4 * pow(5, -1, PRIME) % PRIME).to_bytes(32, "little"))


def _hash(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def _secret(seed):
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
    return scalar, digest[32:]


def public(seed):
    """Public key of a seed, 32 bytes."""
    return encode(times(_secret(seed)[0], BASE))


def sign(seed, message):
    """Signature of a message, 64 bytes."""
    scalar, prefix = _secret(seed)
    nonce = _hash(prefix, message) % ORDER
    commitment = encode(times(nonce, BASE))
    challenge = _hash(commitment, public(seed), message) % ORDER
    return commitment + ((nonce + challenge * scalar) % ORDER).to_bytes(32, "little")


def small_order():
    """Every 32 bytes whose point eight times itself is zero, those that are not reduced included."""
    tries = (decode(number.to_bytes(32, "little")) for number in range(2, 64))
    eighth = next(
        torsion
        for torsion in (times(ORDER, point) for point in tries if point is not None)
        if times(4, torsion) != ZERO
    )
    heights = {times(number, eighth)[1] for number in range(8)}
    heights |= {height + PRIME for height in heights if height + PRIME < 1 << 255}
    return {(height | sign << 255).to_bytes(32, "little") for height in heights for sign in (0, 1)}
