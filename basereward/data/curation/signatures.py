"""Signatures of groups, by which duplicates are found: hashes of the content, and MinHash of the shingles.

MinHash signatures come from rensa, which is written in Rust and many times faster than datasketch. Its own index needs
2 KB per group; a signature here has 400 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
from rensa import RMinHash

from basereward.data.curation.image_hashes import ImageHashes
from basereward.data.curation.words import hash64, prompt_text, shingles, words
from basereward.data.schema.group import Group, role_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Slots of a signature. The estimate of a similarity of 0.8 has a standard error of 0.035.
SLOTS = 128
# Bands of `ROWS` slots each. Two groups share a band with probability 1 - (1 - s**4)**16 for a similarity s: 98.7 % for
# 0.7, 99.98 % for 0.8. Only the first 64 slots are in bands, since more bands would compare more dissimilar groups.
BANDS = 16
ROWS = 4
# Groups whose signatures are computed together. Their shingles are in memory until then.
CHUNK = 2048


def signature_type(*, near: bool) -> np.dtype[np.void]:
    """The fields of a signature, which is the same bytes on every machine.

    Args:
        near: whether near duplicates are looked for.

    >>> signature_type(near=False).itemsize, signature_type(near=True).itemsize
    (16, 400)
    """
    # The hash of the content, and of which text is preferred to which.
    exact = [("content", "<u8"), ("verdict", "<u8")]
    # The last 8 bits of every slot. 1 of 256 different slots counts as equal then, which raises an estimate by at most
    # 0.004 and takes an eighth of the memory ("b-bit minwise hashing", Li and König, 2010).
    return np.dtype([*exact, ("bands", "<u8", (BANDS,)), ("slots", "u1", (2, SLOTS))] if near else exact)


class Signer:
    """Makes the signatures of groups, each from its group alone.

    Args:
        near: whether near duplicates are looked for.
        shingle: the number of consecutive words of a shingle.
        image_hashes: a cache of image hashes.

    >>> (signatures,) = Signer(near=True).sign([Group("a", "s", (), ("yes",)), Group("b", "s", (), ("yes",))])
    >>> bool(signatures[0] == signatures[1])
    True
    """

    def __init__(self, *, near: bool, shingle: int = 3, image_hashes: ImageHashes | None = None) -> None:
        self._near = near
        self._shingle = shingle
        self._image_hashes = image_hashes or ImageHashes()

    def sign(self, groups: Iterable[Group]) -> Iterator[NDArray[np.void]]:
        """Yield the signatures of up to `CHUNK` groups at a time, in order."""
        remaining = iter(groups)
        while chunk := list(islice(remaining, CHUNK)):
            signatures = np.zeros(len(chunk), signature_type(near=self._near))
            # For each group the shingles of the whole, then those of the responses.
            tokens: list[list[bytes]] = []
            for place, group in enumerate(chunk):
                images = [self._image_hashes.identity(image) for image in group.images]
                turns = role_texts(group.prompt)
                responses = self._responses(group)
                signatures["content"][place] = hash64(repr(turns), repr(images), *sorted(responses))
                signatures["verdict"][place] = _verdict(group, responses)
                if self._near:
                    tokens.extend(_tokens(group, responses, images=images + self._drawn(group), size=self._shingle))
            if self._near:
                _add_slots(signatures, tokens)
            yield signatures

    def _drawn(self, group: Group) -> list[int]:
        """The identities of the images of all responses, in any order of these."""
        placed = chain.from_iterable(group.response_images)
        return sorted(self._image_hashes.identity(item.image) for item in placed)

    def _responses(self, group: Group) -> list[str]:
        """The texts of the responses; after the text of one with images, the places and the identities of these."""
        responses: list[str] = []
        for index, text in enumerate(group.responses):
            placed = [(item.offset, self._image_hashes.identity(item.image)) for item in group.images_of(index)]
            responses.append(f"{text}\0{placed}" if placed else text)
        return responses


def _add_slots(signatures: NDArray[np.void], tokens: list[list[bytes]]) -> None:
    """Add the hash of each band and the last bits of every slot."""
    rows = RMinHash.digest_matrix_from_token_byte_sets(tokens, SLOTS, 0).to_rows()
    slots = np.asarray(rows, dtype=np.uint64).reshape(-1, 2, SLOTS)
    whole = slots[:, 0, : BANDS * ROWS].reshape(-1, BANDS, ROWS)
    bands = np.zeros(whole.shape[:2], np.uint64)
    for row in range(ROWS):
        # The factor is odd, so that the multiplication modulo 2**64 is invertible.
        bands = (bands ^ whole[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        bands ^= bands >> np.uint64(32)
    signatures["bands"] = bands
    signatures["slots"] = slots.astype(np.uint8)


def _tokens(group: Group, responses: Sequence[str], *, images: list[int], size: int) -> list[list[bytes]]:
    """Return the shingles of the whole group, and those of its responses alone.

    The images are part of every shingle, so that groups with different images have none in common. A text without words
    is one shingle.
    """
    image_key = repr(images)
    prompt = {f"{image_key}p{shingle}" for shingle in shingles(words(prompt_text(group)), size=size)}
    answers = set()
    for response in responses:
        answers |= {f"{image_key}r{shingle}" for shingle in shingles(words(response) or [response], size=size)}
    return [_encoded(prompt | answers), _encoded(answers)]


def _encoded(tokens: set[str]) -> list[bytes]:
    return [token.encode("utf-8", "surrogatepass") for token in tokens]


def _verdict(group: Group, responses: Sequence[str]) -> int:
    """Hash which of the responses is preferred to which, independent of their order."""
    verdicts = []
    for preference in group.preferences:
        winner, loser = responses[preference.winner], responses[preference.loser]
        verdicts.append(("tie", *sorted((winner, loser))) if preference.tie else ("wins", winner, loser))
    return hash64(repr(sorted(verdicts)))
