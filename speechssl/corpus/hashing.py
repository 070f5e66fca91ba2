"""Hashes names to fixed numbers in [0, 1), so that draws do not depend on order, machine or size."""

from speechssl import fingerprint

__all__ = ["place_of"]


def place_of(name: str, salt: str = "") -> float:
    """Hash `name` to [0, 1): the first 53 bits of its BLAKE2b hash, keyed with `salt`.

    Examples:
        >>> place_of("84-121123") == place_of("84-121123") != place_of("84-121123", "other draw")
        True
    """
    digest = fingerprint.begin(key=bytes.fromhex(fingerprint.of_bytes(salt.encode())))
    digest.update(name.encode())
    return (int.from_bytes(digest.digest(), "big") >> 11) / 2**53
