from __future__ import annotations

from typing import Any

from gevent import monkey


def _leave_alone(**_options: Any) -> bool:
    return True


# pyinfra-testing imports pyinfra's command, which patches the whole standard library as it is
# imported. The workers of pytest-xdist do not survive that, and no unit test needs it.
monkey.patch_all = _leave_alone
