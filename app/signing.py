"""The signature on evidence packs: Ed25519 (RFC 8032), its key derived from the installation's secret and stored nowhere.

The private half is HKDF-SHA256 of KORA_SECRET_KEY with a random salt, so a stolen database cannot sign, and two installations
with one secret still have different keys. Another secret is another key: the public halves of all of them stay in the
database, because old packs are checked with the key that signed them.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

ALGORITHM: Final = "Ed25519"
_PURPOSE: Final = b"kora evidence pack signing key, version 1"
_CONTEXT: Final = b"kora-evidence-pack-1:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """One key pair; `key_id` is the beginning of the SHA-256 of the public key."""

    key_id: str
    public_key: str
    """32 bytes as hex."""
    private_key: Ed25519PrivateKey

    def sign(self, root: str) -> str:
        """Signature over the root of a manifest, as hex."""
        return self.private_key.sign(_CONTEXT + root.encode()).hex()


def new_salt() -> str:
    """A fresh salt for a key, as hex."""
    return secrets.token_hex(32)


def signer(secret_key: str, salt: str) -> Signer:
    """The key pair of an installation's secret and a salt: always the same one."""
    seed = HKDF(algorithm=SHA256(), length=32, salt=bytes.fromhex(salt), info=_PURPOSE).derive(secret_key.encode())
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes_raw().hex()
    return Signer(key_id=key_id_of(public), public_key=public, private_key=private)


def key_id_of(public_key: str) -> str:
    """Short name of a public key (hex)."""
    return hashlib.sha256(bytes.fromhex(public_key)).hexdigest()[:32]


def is_signed(public_key: str, signature: str, root: str) -> bool:
    """Whether `signature` over `root` was made by the key; False for anything that has not the form of either."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), _CONTEXT + root.encode())
    except (InvalidSignature, ValueError):
        return False
    # one text for one signature: upper case or white space would be another file
    return signature == bytes.fromhex(signature).hex() and public_key == bytes.fromhex(public_key).hex()
