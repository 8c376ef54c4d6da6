from __future__ import annotations

import io
import tarfile

import pytest

from genaug._common.tar import BLOCK, member, member_size


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 70_000])
@pytest.mark.parametrize("name", ["000000001.png", "9" * 90 + ".json"])
def test_members_are_those_of_tarfile(name: str, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    info = tarfile.TarInfo(name)
    info.size = size
    written = member(name, content[:size])
    assert written[:BLOCK] == info.tobuf(tarfile.USTAR_FORMAT)
    assert len(written) == member_size(size)
    with tarfile.open(fileobj=io.BytesIO(written + bytes(2 * BLOCK))) as tar:
        assert tar.getnames() == [name]
        assert tar.extractfile(name).read() == content[:size]
