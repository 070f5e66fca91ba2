"""Where the members of archives lie: compared with what Python's own readers and GNU tar take out of them."""

import io
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.corpus.archives import Member, members

LONG = "deep/" * 30 + "x" * 200 + ".wav"
NAMES = ["a.wav", "./b c.wav", "d/ě“č”.wav", "y" * 251 + ".wav", LONG]
CONTENTS = {name: bytes([i + 1]) * (300 + 700 * i) for i, name in enumerate(NAMES)}


def good(archive: bytes) -> dict[str, bytes]:
    """Return the bytes of all members that can be read, by name."""
    found = [member for member in members(io.BytesIO(archive)) if member.problem is None]
    assert len({member.name for member in found}) == len(found)
    return {member.name: archive[member.offset : member.offset + member.size] for member in found}


def problems(archive: bytes) -> dict[str, str]:
    return {member.name: member.problem for member in members(io.BytesIO(archive)) if member.problem is not None}


def tarred(form: int = tarfile.GNU_FORMAT, add: Callable[[tarfile.TarFile], None] = lambda _: None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in CONTENTS.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        add(tar)
    return out.getvalue()


def special(name: str, **fields: object) -> Callable[[tarfile.TarFile], None]:
    """Return what adds a member with the fields given, without content."""

    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        for key, value in fields.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(b"\7" * info.size))

    return add


def zipped(**kind: object) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **kind) as archive:
        archive.mkdir("d")
        for name, content in CONTENTS.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_tar_lie_where_tarfile_finds_them_also_with_long_names(form):
    archive = tarred(form)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        oracle = {each.name.removeprefix("./"): tar.extractfile(each).read() for each in tar if each.isfile()}
    assert good(archive) == oracle
    assert set(oracle.values()) == set(CONTENTS.values())
    assert problems(archive) == {}


def test_members_of_a_zip_lie_where_zipfile_finds_them():
    archive = zipped()
    assert good(archive) == {name.removeprefix("./"): content for name, content in CONTENTS.items()}
    assert problems(archive) == {}


def test_offsets_in_a_zip_are_of_the_local_header_also_where_the_table_has_another_extra_field():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("a.wav")
        info.extra = struct.pack("<HH4s", 0x7075, 4, b"abcd")
        archive.writestr(info, b"one")
        info.extra = b""  # of the table only, which is written last
        archive.writestr("b.wav", b"two")
    assert good(out.getvalue()) == {"a.wav": b"one", "b.wav": b"two"}


def test_zip64_and_data_descriptors_are_read():
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    out = Pipe()
    with zipfile.ZipFile(out, "w") as archive:  # cannot seek, so sizes follow the data
        archive.writestr("a.wav", b"one")
        with archive.open("b.wav", "w", force_zip64=True) as file:
            file.write(b"two")
    assert good(out.getvalue()) == {"a.wav": b"one", "b.wav": b"two"}


def test_a_zip_behind_other_bytes_is_read():
    assert good(b"PK\x03\x04" + b"#" * 996 + zipped())["a.wav"] == CONTENTS["a.wav"]


def test_a_member_that_the_table_of_a_zip_does_not_list_is_noticed():
    archive = zipped()
    at = archive.index(b"PK\x01\x02")
    for entry in range(1, 4):  # the comment of the next entry reaches over the rest of the table
        at = archive.index(b"PK\x01\x02", at + 1)
        wrong = archive[: at + 32] + b"\xff\xff" + archive[at + 34 :]
        assert len(good(wrong)) == entry
        assert "that its table does not list" in problems(wrong)[""]


def test_compressed_and_encrypted_members_are_named_with_the_cure():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("stored.wav", b"1" * 100)
        archive.writestr("packed.wav", b"1" * 100, zipfile.ZIP_DEFLATED)
        archive.writestr("secret.wav", b"1" * 100)
    content = bytearray(out.getvalue())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of the last entry in the table
    assert good(bytes(content)) == {"stored.wav": b"1" * 100}
    found = problems(bytes(content))
    assert "`zip -0`" in found["packed.wav"]
    assert found["secret.wav"] == "encrypted; unpack it"


def test_a_bomb_is_not_decompressed():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.wav", b"\0" * 10**8)
    assert "compressed" in problems(out.getvalue())["bomb.wav"]


def test_members_of_a_zip_that_overlap_are_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.wav", b"1" * 100)
        archive.writestr("b.wav", b"2" * 100)
    content = out.getvalue()
    table = content.rindex(b"PK\x01\x02")
    wrong = content[: table + 42] + struct.pack("<I", 0) + content[table + 46 :]  # b begins where a does
    found = list(members(io.BytesIO(wrong)))
    assert [member.name for member in found if member.problem is None] in (["a.wav"], [])  # newer zipfiles refuse all
    assert "verlap" in str([member.problem for member in found])


@pytest.mark.parametrize(
    ("magic", "kind"), [(b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")]
)
def test_a_compressed_tar_is_named_whatever_its_suffix(magic, kind):
    assert problems(magic + b"\0" * 600) == {
        "": f"is compressed with {kind}, so it cannot be read in place; decompress it"
    }


@pytest.mark.parametrize(
    ("add", "name", "problem"),
    [
        (special("../out.wav", size=3), "../out.wav", "leads out of the archive"),
        (special("a/../../out.wav", size=3), "a/../../out.wav", "leads out of the archive"),
        (special("/etc/out.wav", size=3), "etc/out.wav", "leads out of the archive"),
        (special("a\tb.wav", size=3), "a\tb.wav", "a tab or line break"),
        (special("a\nb.wav", size=3), "a\nb.wav", "a tab or line break"),
        (special("l.wav", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "l.wav", "a link to '/etc/passwd'"),
        (special("d/l.wav", type=tarfile.SYMTYPE, linkname="../../a.wav"), "d/l.wav", "a link to '../a.wav'"),
        (special("l.wav", type=tarfile.LNKTYPE, linkname="none.wav"), "l.wav", "which is no file of the archive"),
        (special("l.wav", type=tarfile.SYMTYPE, linkname="l.wav"), "l.wav", "which is no file of the archive"),
        (special("p.wav", type=tarfile.FIFOTYPE), "p.wav", "not a file, but tar's type"),
        (special("c.wav", type=tarfile.CHRTYPE), "c.wav", "not a file, but tar's type"),
    ],
)
def test_members_that_are_not_to_be_trusted_are_named(add, name, problem):
    archive = tarred(add=add)
    assert problem in problems(archive)[name]
    assert len(good(archive)) == len(CONTENTS)


@pytest.mark.parametrize(
    "link",
    [
        special("l.wav", type=tarfile.LNKTYPE, linkname="a.wav"),
        special("d/l.wav", type=tarfile.SYMTYPE, linkname="../a.wav"),
        special("l.wav", type=tarfile.SYMTYPE, linkname="./a.wav"),
    ],
)
def test_links_within_the_archive_stand_for_the_file(link):
    found = good(tarred(add=link))
    assert {found[name] for name in found if name.endswith("l.wav")} == {CONTENTS["a.wav"]}


def test_a_link_in_a_zip_stands_for_the_file():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("d/a.wav", b"one")
        for name, target in (("d/l.wav", "a.wav"), ("m.wav", "../a.wav")):
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr = 3, 0o120777 << 16
            archive.writestr(link, target)
    assert good(out.getvalue()) == {"d/a.wav": b"one", "d/l.wav": b"one"}
    assert "a link to '../a.wav'" in problems(out.getvalue())["m.wav"]


def test_a_name_that_is_not_utf8_is_refused():
    archive = tarred(add=special("caf\udce9.wav", size=3))
    assert list(problems(archive).values()) == ["a path that is not UTF-8; rename it"]


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_members_are_refused(tmp_path, version):
    with (tmp_path / "a.wav").open("wb") as file:
        file.seek(10**6)
        file.write(b"end")
    (tmp_path / "b.wav").write_bytes(b"whole")
    made = ["tar", "-S", "--format=posix", f"--sparse-version={version}", "-cf", "x.tar", "a.wav", "b.wav"]
    subprocess.run(made, cwd=tmp_path, check=True)
    archive = (tmp_path / "x.tar").read_bytes()
    assert "sparse" in problems(archive)["a.wav"]
    assert good(archive) == {"b.wav": b"whole"}


def test_a_cut_archive_tells_so_and_lists_what_is_whole():
    archive = tarred()
    first = next(iter(members(io.BytesIO(archive))))
    within = archive[: first.offset + 100]
    assert "of 612; the archive was truncated" in problems(within)["a.wav"].replace(str(len(within)), "612")
    assert "damaged or truncated" in problems(within)[""]
    between = archive[: first.offset + 512]  # exactly before the next header
    assert list(good(between)) == ["a.wav"]
    assert "without an end mark" in problems(between)[""]
    assert "truncated" in problems(zipped()[:-30])[""]


def test_damage_within_an_archive_is_not_taken_for_its_end():
    archive = bytearray(tarred())
    header = archive.index(b"d/\xc4\x9b")
    archive[header : header + 20] = b"\xff" * 20
    assert list(good(bytes(archive))) == ["a.wav", "b c.wav"]
    assert "is damaged at byte" in problems(bytes(archive))[""]


def test_bytes_lost_up_to_the_zeros_at_the_end_are_noticed():
    archive = tarred()
    first = next(iter(members(io.BytesIO(archive))))
    lost = archive[: first.offset + 100] + archive[-1924:]  # what is left looks like one member and the end
    assert list(good(lost)) == ["a.wav"]
    assert "no multiple of 512" in problems(lost)[""]


def test_an_archive_put_behind_another_is_noticed():
    one = tarred()
    assert f"has other bytes after its end, from byte {len(one)} on" in problems(one + tarred())[""]


def test_a_false_size_neither_hangs_nor_fills_the_memory():
    info = tarfile.TarInfo("a.wav")
    block = bytearray(info.tobuf())
    block[124:136] = (256**11 * 255 + 256**11 - 512).to_bytes(12, "big")  # minus 512: back to its own header
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    found = list(members(io.BytesIO(bytes(block) + b"\0" * 1024)))
    assert 1 <= len(found) <= 3
    assert all(member.problem for member in found)
    block[156:157], block[124:136] = b"x", b"77777777777\0"  # an extended header of 8 GiB
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    problem = str(next(members(io.BytesIO(bytes(block) + b"\0" * 1024))).problem)
    assert "a header of" in problem or "empty header" in problem  # Python 3.14 reads what is there, a MiB at a time


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path):
    for content in (b"", b"RIFF" * 500, b"PK\x03\x04" * 300):
        assert [bool(member.problem) for member in members(io.BytesIO(content))] == [True]


def test_an_archive_without_members_has_none():
    assert list(members(io.BytesIO(b"\0" * 10240))) == []
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    assert list(members(empty)) == []


def test_a_member_says_where_it_is():
    archive = tarred()
    assert next(members(io.BytesIO(archive))) == Member("a.wav", archive.index(CONTENTS["a.wav"]), 300)
