"""Links of the documents lead somewhere, and pages for users stay short."""

import re

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
CODE = re.compile(r"`([^`\n]+)`")
PLACE = re.compile(r"(?:runtime|export|bench|tests|docs)/[\w./*{},-]+|test_\w+\.py")
LONGEST = 80  # lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    """`test_*.py`, and paths of the repository, also with `*` or `{a,b}`."""
    quoted = [word for code in CODE.findall(page.read_text(encoding="utf-8")) for word in code.split()]
    named = {word for word in quoted if PLACE.fullmatch(word)}
    assert not {word for word in named for path in _spelled_out(word) if not any(ROOT.glob(path))}


@pytest.mark.parametrize("package", ["runtime", "export", "bench"])
def test_tests_that_comments_name_exist(package):
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / package).rglob("*.py")]
    named = {name for source in sources for name in re.findall(r"\btests/[\w/]+\.py", source)}
    assert not {name for name in named if not (ROOT / name).is_file()}


def _spelled_out(word: str) -> list[str]:
    """Return the patterns of a path, from the root."""
    if braces := re.search(r"{(.+?)}", word):
        return [
            path for name in braces[1].split(",") for path in _spelled_out(word.replace(braces[0], name, 1))
        ]
    return [word if "/" in word else f"tests/**/{word}"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_package_is_installed_from_its_folder(page):
    """It is on no index: 'earsight[…]' adds an extra to what is installed, as messages ask for."""
    if page.name != "errors.md":  # which quotes messages
        assert "pip install 'earsight" not in page.read_text(encoding="utf-8")


# Folders of docs/tree.md that are described by words, not by their modules.
IN_WORDS = {"bench", "bench/scale", "bench/tuning", "bench/measure", "bench/pocket", "tests"}


def test_the_plan_of_the_tree_names_every_module():
    plan = (ROOT / "docs" / "tree.md").read_text(encoding="utf-8").split("```")[1]
    named = _modules_named(plan)
    assert set(named) > IN_WORDS | {"runtime/sessions/tensorrt", "export/graphs", "bench/nbest"}
    for folder in set(named) - IN_WORDS:
        inside = {path.stem for path in (ROOT / folder).glob("*.py") if not path.stem.startswith("__")}
        packages = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
        packages -= {name for name in packages if f"{folder}/{name}" in named}  # have a line of their own
        assert set(named[folder]) == inside | packages, folder


def _modules_named(plan: str) -> dict[str, list[str]]:
    """Return the words after each folder and its description; two spaces of indentation are a level."""
    named: dict[str, list[str]] = {}
    places: list[str] = []
    for line in plan.strip("\n").splitlines():
        if found := re.match(r"( *)(\w+)/(?: +(?:.*: )?(.*))?$", line):
            indentation, name, text = found.groups(default="")
            places = [*places[: len(indentation) // 2], name]
        else:
            text = line
        words = re.sub(r"\(\[.*\)\)|\(.*?\)", "", text)
        named.setdefault("/".join(places), []).extend(re.findall(r"\w+", words))
    return named


def test_pages_for_users_are_short():
    lengths = {
        page.name: len(page.read_text(encoding="utf-8").splitlines()) for page in (ROOT / "docs").glob("*.md")
    }
    assert not {name: length for name, length in lengths.items() if length > LONGEST}
