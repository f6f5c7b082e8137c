import re
from pathlib import Path

import pytest

from hpcbench import benchmark, config, site
from hpcbench.cli import main
from hpcbench.site import Site, Token

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_that_a_page_names_exist(page):
    for line in re.findall(rf"hpcbench ((?:{'|'.join(main.commands)})\b[^`\n]*)", page.read_text()):
        command = main.commands[line.split()[0]]
        named = re.search(r"--benchmark (\w+)", line)
        loaded = benchmark.load(named[1] if named else "gpt2")
        forms = [loaded, *([benchmark.load(loaded.at_endpoints)] if loaded.at_endpoints else [])]
        parameters = {name for form in forms for name in form.parameters}
        known = {option for each in command.params for option in each.opts} | {"--help"}
        known |= {f"--{name.replace('_', '-')}" for name in parameters}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", line.split("#")[0])) <= known, line


def test_the_readme_starts_with_the_two_commands_and_never_names_the_other_project():
    text = (ROOT / "README.md").read_text()
    assert text.index("make demo") < text.index("make test") < 200
    everything = "".join(page.read_text() for page in PAGES)
    assert not re.search(r"pip3? install (?:-\S+ )*[\"']?hpcbench", everything)


def test_the_smallest_benchmark_of_the_readme_is_one(tmp_path):
    block = re.search(
        r"\n\n((?:    .*\n)+)",
        (ROOT / "README.md").read_text().split("The least one that\nworks:")[-1].split("works:")[-1],
    )
    (tmp_path / "sort").mkdir()
    (tmp_path / "sort" / "benchmark.yaml").write_text(re.sub(r"(?m)^    ", "", block[1]))
    loaded = benchmark.load_file(tmp_path / "sort" / "benchmark.yaml")
    assert loaded.headline == ["wall_time"]


def keys(model, above=""):
    """Yield every key of a model, with those of the models below it."""
    for name, field in model.model_fields.items():
        below = [each for each in config._models(field.annotation) if each is not Token]
        yield from [f"{above}{name}"] if not below else ()
        for each in below:
            yield from keys(each, f"{above}{name}.")


def test_every_key_of_a_site_is_explained():
    text = (ROOT / "docs" / "sites.md").read_text()
    assert [key for key in keys(Site) if f"`{key}`" not in text] == []


@pytest.mark.parametrize("file", sorted(ROOT.glob("sites/*.yaml")), ids=lambda file: file.stem)
def test_every_site_is_named_in_the_docs_and_whole_once_its_variables_are_set(file, monkeypatch):
    assert f"`{file.stem}`" in (ROOT / "docs" / "sites.md").read_text()
    for name in re.findall(r"\$\{([A-Z_]+):\?", file.read_text()):
        monkeypatch.setenv(name, "abc123")
    loaded = site.load(file.stem)
    assert loaded.title
    assert loaded.benchmark is None or benchmark.load(loaded.benchmark)
