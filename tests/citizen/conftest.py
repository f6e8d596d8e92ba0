"""One thread each, as for the tests of ops."""

from tests.ops.conftest import _one_thread  # noqa: F401
