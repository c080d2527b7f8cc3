"""The page about stores tells the truth: its examples are accepted, and it names every store and key."""

import re
from pathlib import Path

import pytest
import yaml

from gridwright.sections import Section
from gridwright.settings import GridSettings, validate_settings
from gridwright.store_settings.policy import EvictionPolicySettings
from gridwright.store_settings.store import StoreSettings
from gridwright_actioncache.config import ActionCacheFile
from gridwright_cas.config import CasFile

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "stores.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
KINDS = {kind: field.annotation.__args__[0] for kind, field in StoreSettings.model_fields.items() if field.annotation}


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("model", [CasFile, ActionCacheFile])
def test_an_example_is_accepted(model: type[GridSettings], example: str) -> None:
    validate_settings(model, yaml.safe_load(example), source="docs/stores.md")


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_has_a_row_with_all_its_keys(kind: str) -> None:
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{kind}` |")]
    settings: type[Section] = KINDS[kind]
    assert [key for key in settings.model_fields if not re.search(rf"`.*\b{key}\b.*`", row)] == []


def test_the_words_of_an_eviction_policy_are_explained() -> None:
    assert [key for key in EvictionPolicySettings.model_fields if f"| `{key}` |" not in PAGE] == []
