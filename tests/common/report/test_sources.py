"""What is to be cited, of methods, data and networks."""

from __future__ import annotations

import re

import pytest

from common.networks.architectures import SETTINGS
from common.report.sources import ARCHITECTURES, LIBRARIES, ModuleSource, module_sources
from common.runs import plan
from tests.synthetic import make_config

METHODS = ("ce", "ddcrf", "rmi", "crfrnn", "rankseg")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModuleSource]:
    """Those of a benchmark, by what they are of."""
    config = make_config(tmp_path_factory.mktemp("sources"), methods=list(METHODS))
    return {source.names: source for source in module_sources(plan.benchmark(config))}


def test_methods_data_and_networks_have_a_source(sources: dict[str, ModuleSource]) -> None:
    models = [name for name in sources if name.startswith("deeplabv3plus-")]
    assert set(sources) >= {"rmi", "ddcrf", "digits", *models} and models
    assert "arXiv 1802.02611" in sources[models[0]].title and sources[models[0]].origin == LIBRARIES


def test_every_architecture_has_a_citation() -> None:
    assert ARCHITECTURES.keys() == SETTINGS.keys()
    assert all(re.search(r"\b20\d\d, arXiv \d{4}\.\d{5}\.$", text) for text in ARCHITECTURES.values())


def test_a_citation_ends_with_its_sentence(sources: dict[str, ModuleSource]) -> None:
    origins = {name: source.origin for name, source in sources.items() if source.origin}
    assert {"ddcrf", "crfrnn", "rankseg"} <= origins.keys()
    assert all(text.endswith((".", ")")) for text in origins.values()), origins
    assert origins["ddcrf"].endswith("arXiv 1912.02937."), "how it computes stands below"
    assert "max-marginals" in sources["ddcrf"].text
