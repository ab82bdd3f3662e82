"""The image holds what the Dockerfile says, from the lock files, and runs as nobody in particular."""

import re

from tests.unit.delivery.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
LAST_STAGE = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]


def test_everything_of_python_is_checked_by_hash() -> None:
    for install in re.findall(r"pip(?: --python \S+)? install [^\n]*", DOCKERFILE):
        assert "--require-hashes" in install or "--no-index" in install, install
    for lock in ("requirements.lock", "requirements-build.lock"):
        lines = (ROOT / lock).read_text().replace("\\\n", " ").splitlines()
        requirements = [line for line in lines if line[:1].isalnum()]
        assert requirements
        assert all("==" in each and "--hash=sha256:" in each for each in requirements)


def test_the_build_gets_only_what_it_copies() -> None:
    """.dockerignore is a list of what is let in; each source that is copied has to be on it."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    admitted = {line[1:] for line in lines if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        copied |= {source.removeprefix("./") for source in line.split()[:-1]}
    assert copied == admitted
    assert all((ROOT / source).exists() for source in copied)


def test_the_last_stage_has_no_tools_and_no_privileges() -> None:
    installed = re.findall(r"apt-get install -y --no-install-recommends ([^\\\n]*)", LAST_STAGE)
    assert [each.split() for each in installed] == [["python3", "ca-certificates"]]
    assert "USER 65532:65532" in LAST_STAGE
    assert 'ENTRYPOINT ["recell-operator"]' in LAST_STAGE
