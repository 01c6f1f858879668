"""Every public name of the defenses is where the package says."""

import deitsec.defenses


def test_every_name_is_found():
    for name in deitsec.defenses.__all__:
        assert getattr(deitsec.defenses, name) is not None
