"""Every public name of the defenses is where the package says, whatever was imported before."""

import pkgutil
from importlib import import_module
from types import ModuleType

import deitsec.defenses


def test_every_name_is_found_and_no_file_hides_it():
    """A submodule that has a public name's name would take its place once it is imported."""
    for module in pkgutil.iter_modules(deitsec.defenses.__path__):
        import_module(f"deitsec.defenses.{module.name}")
    for name in deitsec.defenses.__all__:
        assert not isinstance(getattr(deitsec.defenses, name), ModuleType), name
