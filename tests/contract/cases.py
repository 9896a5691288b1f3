"""All cases of the contract suite, collected from the stores' ``case_<store>.py``."""

from __future__ import annotations

from importlib import import_module

from multidb.provisioners import INCLUDED
from tests.support.case import StoreCase

CASES: list[StoreCase] = [case for store in INCLUDED for case in import_module(f"tests.contract.case_{store}").CASES]
