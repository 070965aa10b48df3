"""The page of made-up ranks."""

from __future__ import annotations

import pytest


@pytest.fixture
def page(evaluated):
    return (evaluated.root / "report" / "index.html").read_text()
